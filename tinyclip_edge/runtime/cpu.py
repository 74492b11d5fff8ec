"""What this machine has: CPU features that decide how int8 runs, cores and memory."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_X86 = frozenset({"x86_64", "amd64", "i386", "i686", "x86"})
_ARM = frozenset({"aarch64", "arm64"})
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
# Linux's name of a flag -> macOS's.
_DARWIN = {"avx2": "hw.optional.avx2_0", "avx512_vnni": "hw.optional.avx512vnni"}
_LONGEST_VALUE = 256  # bytes
_WINDOWS_AVX2 = 40  # PF_AVX2_INSTRUCTIONS_AVAILABLE; Windows has no such number for VNNI


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return the first processor's flags by their Linux names; empty if the system lists none.

    On macOS and Windows, only those that this module needs.
    """
    system = platform.system()
    if system == "Darwin":
        return frozenset(flag for flag, name in _DARWIN.items() if any(system_value(name)))
    if system == "Windows":
        return frozenset({"avx2"} if _windows_feature(_WINDOWS_AVX2) else ())
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


@cache
def int8_saturates() -> bool:
    """Whether sums of u8 x s8 products can overflow 16 bits here: x86 not known to have VNNI."""
    return platform.machine().lower() in _X86 and not _VNNI & cpu_flags()


@cache
def processor() -> str | None:
    """Return this machine's kind: x86-vnni, x86-avx2, x86 or arm64; None for any other."""
    machine = platform.machine().lower()
    if machine in _ARM:
        return "arm64"
    if machine not in _X86:
        return None
    if not int8_saturates():
        return "x86-vnni"
    return "x86-avx2" if "avx2" in cpu_flags() else "x86"


def core_count() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def physical_memory() -> int | None:
    """Return the bytes of this machine's memory; None if the system does not say."""
    names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    if not all(name in getattr(os, "sysconf_names", ()) for name in names):
        return None
    pages, size = (os.sysconf(name) for name in names)
    return pages * size


def system_value(name: str) -> bytes:
    """Return the bytes of a macOS sysctl value, without trailing zeros.

    Empty on other systems, and for a name that this machine lacks.
    """
    if platform.system() != "Darwin":
        return b""
    value = ctypes.create_string_buffer(_LONGEST_VALUE)
    size = ctypes.c_size_t(_LONGEST_VALUE)
    system = ctypes.CDLL(None)
    failed = system.sysctlbyname(name.encode(), value, ctypes.byref(size), None, 0)
    return b"" if failed else value.raw[: size.value].rstrip(b"\0")


def _windows_feature(number: int) -> bool:
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    return bool(kernel.IsProcessorFeaturePresent(number))
