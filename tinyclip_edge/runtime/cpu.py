"""Features of the machine: those that decide how int8 runs without overflow, and its memory."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_X86 = frozenset({"x86_64", "amd64", "i386", "i686", "x86"})
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return the first processor's flags; empty where the system does not list them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def physical_memory() -> int | None:
    """Return the bytes of this machine's memory; None where the system does not say."""
    names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    if not all(name in getattr(os, "sysconf_names", ()) for name in names):
        return None
    pages, size = (os.sysconf(name) for name in names)
    return pages * size


@cache
def int8_saturates() -> bool:
    """Whether u8 x s8 products can overflow 16 bits here: x86 not known to have VNNI."""
    return platform.machine().lower() in _X86 and not _VNNI & cpu_flags()
