"""Facts about a device's hardware, as its system reports them; nothing about its user."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import socket
from pathlib import Path

from tinyclip_edge.evaluation.device_record import TEXT_CHARS, TEXT_SIGNS, DeviceFacts
from tinyclip_edge.runtime.cpu import cpu_flags, physical_memory, system_value

# Instruction sets that determine the speed of int8 and float matrix products.
SPEED_FLAGS = (
    *("sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl"),
    *("avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("neon", "asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
# Arm processors report a part number (of MIDR_EL1) instead of a name.
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd49": "Neoverse-N2",
}
_ARM = "0x41"  # implementer of the processor
_MODEL_FILES = ("proc/device-tree/model", "sys/class/dmi/id/product_name")


def device_facts(root: Path = Path("/")) -> DeviceFacts:
    """Return the facts about this machine; ``root`` contains its proc and sys."""
    cpuinfo = root / "proc/cpuinfo"
    memory = physical_memory()
    flags = cpu_flags(cpuinfo)
    return DeviceFacts(
        kind="computer",
        model=_model(root),
        processor=_processor(cpuinfo),
        architecture=re.sub(r"\W", "", platform.machine())[:40] or None,
        system={"Darwin": "macOS"}.get(platform.system(), public_text(platform.system()) or "?"),
        cores=os.cpu_count() or 1,
        memory_mb=None if memory is None else round(memory / 1e6),
        flags=[flag for flag in SPEED_FLAGS if flag in flags],
    )


def public_text(text: str) -> str | None:
    """Return the name of a piece of hardware, limited to what a record allows.

    None if it is empty or contains the name of this machine or of its user, which an owner may have
    added.
    """
    words = re.sub(rf"[^{TEXT_SIGNS}]|\s+", " ", text)
    words = " ".join(words.split())[:TEXT_CHARS].strip()
    private = any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words) for name in _private_names())
    return None if private else words or None


def _private_names() -> list[str]:
    names = [socket.gethostname(), socket.gethostname().partition(".")[0], Path.home().name]
    with contextlib.suppress(OSError, KeyError, ImportError):  # the user id has no name
        names.append(getpass.getuser())
    return [name for name in names if name]


def _model(root: Path) -> str | None:
    for name in _MODEL_FILES:
        if text := public_text(_text(root / name)):
            return text
    return public_text(system_value("hw.model").decode(errors="replace"))


def _processor(cpuinfo: Path) -> str | None:
    fields: dict[str, str] = {}
    for line in _text(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if text := public_text(fields.get("model name", "")):
        return text
    if fields.get("CPU implementer") == _ARM and (part := fields.get("CPU part")):
        return f"Arm {_ARM_PARTS.get(part, public_text(part))}"
    brand = system_value("machdep.cpu.brand_string").decode(errors="replace")
    return public_text(brand or platform.processor())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
