"""The table of export targets, read by export, runtime, command line and documentation.

A target is a name in this table and its settings in ``configs/export/NAME.yaml``. What the engine
of a target takes (operators, types, shapes) is in ``tinyclip_export.verification.engine_rules``.
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
    # On the CPU: kinds that `runtime.cpu.processor` returns; empty for any. What the files cost on
    # another kind.
    processors: tuple[str, ...] = ()
    other_processors: Mapping[str, str] = field(default_factory=dict)
    proof: str = ""  # what an export shows beyond values and ranking on onnxruntime's CPU
    # Whether onnxruntime's CPU runs its files: values and ranking are then measured at export.
    runs_on_cpu: bool = True


AUTO = "auto"  # in place of a name: that of this machine

# Without VNNI, weights of 8 bits need the exact kernel, which adds products in 32 bits: measured in
# turns with the AVX2 kernels of onnxruntime 1.32, 1.22 times for a picture, 1.2 for a caption.
_EXACT = "its int8 takes 1.2 times as long here as with --target x86-avx2"
_COARSE = "no time, but its int8 weights are coarser than with --target {}"
_SAFE = MappingProxyType(
    {kind: _COARSE.format(kind) for kind in ("x86-vnni", "arm64")}  # which need no smaller weights
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
        description="onnxruntime on Android, reduced builds too",
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
        description="OpenVINO's own files too",
        devices=("cpu", "openvino"),
        proof="values and ranking in OpenVINO too",
    ),
    "litert": Target(
        description=".tflite files for LiteRT too", proof="values and ranking in LiteRT too"
    ),
    "executorch": Target(
        description=".pte files for ExecuTorch too", proof="values and ranking in ExecuTorch too"
    ),
}
