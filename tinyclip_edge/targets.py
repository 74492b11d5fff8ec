"""The table of export targets, read by export, runtime, command line and documentation.

A target is a name in this table with settings in ``configs/export/NAME.yaml``. What its engine
supports (operators, types, shapes) is in ``tinyclip_export.verification.engine_rules``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A platform for which bundles are made."""

    description: str  # for --help and README, a few words
    devices: tuple[str, ...] = ("cpu",)  # keys of runtime/devices.py that its files are made for
    suffix: str = ".onnx"  # of the towers' files
    elsewhere: str = ""  # what its files cost on another device; empty: nothing
    # On the CPU: the processors that its files are made for, by the names of
    # `runtime.cpu.processor` (empty: any), and what the files cost on others.
    processors: tuple[str, ...] = ()
    other_processors: Mapping[str, str] = field(default_factory=dict)
    proof: str = ""  # what an export proves beyond values and ranking on onnxruntime's CPU
    # Whether onnxruntime's CPU runs its files: values and ranking are then measured at export.
    runs_on_cpu: bool = True


AUTO = "auto"  # in place of a name: the target of this machine

# Without VNNI, 8-bit weights need the exact kernel, which adds products in 32 bits. Measured in
# turns with the AVX2 kernels of onnxruntime 1.32, it takes 1.22 times as long for a picture and 1.2
# times for a caption.
_EXACT = "its int8 takes 1.2 times as long here as with --target x86-avx2"
_COARSE = "no time, but its int8 weights are coarser than with --target {}"
_SAFE = MappingProxyType(
    {kind: _COARSE.format(kind) for kind in ("x86-vnni", "arm64")}  # which need no coarser weights
)
_FULL = MappingProxyType({"x86": _EXACT, "x86-avx2": _EXACT})

TARGETS: Mapping[str, Target] = {
    "x86": Target(
        description="any x86 processor",
        processors=("x86", "x86-avx2", "x86-vnni"),
        other_processors=_SAFE,
    ),
    "x86-avx2": Target(
        description="x86 with AVX2 and no VNNI",
        processors=("x86", "x86-avx2"),
        other_processors=_SAFE,
    ),
    "x86-vnni": Target(
        description="x86 with VNNI", processors=("x86-vnni",), other_processors=_FULL
    ),
    "x86-vnni-single": Target(
        description="x86 with VNNI, sessions of one thread",
        processors=("x86-vnni",),
        other_processors=_FULL,
    ),
    "arm64": Target(description="64-bit ARM", processors=("arm64",), other_processors=_FULL),
    "qnn": Target(
        description="Snapdragon's NPU",
        proof="operators, types and shapes; onnxruntime-qnn compiles both towers whole on x86",
        devices=("qnn",),
        elsewhere="the CPU computes its 16-bit activations more slowly than fp32",
    ),
    "coreml": Target(
        description="Apple's Neural Engine and GPU",
        proof="operators, types and shapes; coremltools converts both towers",
        devices=("coreml",),
        elsewhere="the CPU computes its 16-bit floats in 32 bits",
    ),
    "tensorrt": Target(
        description="NVIDIA GPUs and Jetson",
        proof="operators, types and shapes; zero points of 0",
        devices=("tensorrt", "cuda"),
        elsewhere="the CPU computes its 16-bit floats in 32 bits",
    ),
    "android": Target(
        description="onnxruntime on Android, including reduced builds",
        proof="the .ort files open in a fresh process",
        suffix=".ort",
    ),
    "raspberry-pi": Target(
        description="Raspberry Pi 3 to 5, 64-bit",
        processors=("arm64",),
        other_processors=_FULL,
    ),
    "browser": Target(description="onnxruntime-web and transformers.js"),
    "openvino": Target(
        description="OpenVINO, with files in its own format",
        devices=("cpu", "openvino"),
        proof="values and ranking in OpenVINO too",
    ),
    "litert": Target(
        description="LiteRT, with .tflite files", proof="values and ranking in LiteRT too"
    ),
    "executorch": Target(
        description="ExecuTorch, with .pte files", proof="values and ranking in ExecuTorch too"
    ),
}
