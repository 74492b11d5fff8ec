"""Facts about the machine and the libraries that determine latencies."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "onnxruntime", "open_clip_torch", "optimum", "transformers")


def machine_facts() -> dict[str, Any]:
    """Return processor, its int8 instructions, cores, load of the last minute and versions."""
    from tinyclip_edge.runtime.cpu import cpu_flags

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    int8_flags = ("avx2", "avx512f", "avx_vnni", "avx512_vnni")
    return {
        "cpu": model,
        "flags": [flag for flag in int8_flags if flag in cpu_flags()],
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: installed for name in LIBRARIES if (installed := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
