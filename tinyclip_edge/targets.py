"""The table of export targets, read by export, runtime, command line and documentation.

A target is a name in this table and its settings in ``configs/export/NAME.yaml``. What the engine
of a target takes (operators, types, shapes) is in ``tinyclip_export.verification.engine_rules``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A platform for which bundles are made."""

    description: str  # for --help and README, a few words
    devices: tuple[str, ...] = ("cpu",)  # keys of runtime/devices.py that its files are made for
    suffix: str = ".onnx"  # of the towers' files
    elsewhere: str = ""  # what its files cost on another device; empty: nothing
    # Whether onnxruntime's CPU runs its files: values and ranking are then measured at export.
    runs_on_cpu: bool = True


TARGETS: Mapping[str, Target] = {
    "x86": Target(description="any x86 processor"),
    "x86-vnni": Target(description="x86 with VNNI"),
    "x86-vnni-single": Target(description="x86 with VNNI, sessions of one thread"),
    "arm64": Target(description="64-bit ARM"),
    "qnn": Target(
        description="Snapdragon's NPU",
        devices=("qnn",),
        elsewhere="the CPU computes its 16-bit activations more slowly than fp32",
    ),
    "coreml": Target(
        description="Apple's Neural Engine and GPU",
        devices=("coreml",),
        elsewhere="the CPU computes its 16-bit floats in 32 bits",
    ),
    "tensorrt": Target(
        description="NVIDIA GPUs and Jetson",
        devices=("tensorrt", "cuda"),
        elsewhere="the CPU computes its 16-bit floats in 32 bits",
    ),
    "android": Target(
        description="onnxruntime on Android, reduced builds too",
        suffix=".ort",
    ),
    "raspberry-pi": Target(description="Raspberry Pi 3 to 5, 64-bit"),
    "browser": Target(description="onnxruntime-web and transformers.js"),
}
