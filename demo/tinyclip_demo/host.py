"""Facts about this machine, for the measured figures."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tinyclip_edge.runtime.cpu import CPUINFO, core_count, cpu_flags

PACKAGES = ("tinyclip-edge", "onnxruntime", "torch", "numpy", "pillow")
INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def host_facts() -> dict[str, str]:
    """Return processor, instructions that speed up int8, cores, system and versions by name."""
    supported = [flag for flag in INSTRUCTIONS if flag in cpu_flags()]
    facts = {
        "processor": _processor(CPUINFO),
        "instructions": " ".join(supported) or "unknown",
        "cores": str(core_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def _processor(cpuinfo: Path) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
