"""float16 towers: half the size, with float32 inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from tinyclip_edge.models.quiet import quiet
from tinyclip_export.onnx_passes.exporter import strip_traces
from tinyclip_export.onnx_passes.plain_norm import PREFIX
from tinyclip_export.quantization.recipe import QuantizeJob

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types

# For norms above 255, the sum of squares exceeds 65504, the maximum of float16.
WIDE = ("ReduceL2",)


@dataclass(frozen=True, slots=True)
class Fp16Recipe:
    """All weights and activations in float16, for GPUs and WebGPU; CPUs compute in float32."""

    saturates: ClassVar = False
    integer: ClassVar = False
    operators: ClassVar[tuple[str, ...]] = ()  # all layers have the same precision

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {"kind": "float16", "inputs": "float32", "outputs": "float32"}

    def write(self, job: QuantizeJob) -> None:
        """Write ``job.target``."""
        with quiet():
            import onnx

            model = halve(onnx.load(str(job.source)))
            strip_traces(model)
            onnx.save_model(model, str(job.target))


def halve(model: ModelProto) -> ModelProto:
    """Return `model` in float16 with float32 inputs and outputs.

    Direct exports of open_clip's modules crash onnxruntime 1.32 in float16. Our towers do not, and
    every file is opened in a separate process before the bundle is accepted.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    blocked = [*DEFAULT_OP_BLOCK_LIST, *WIDE]
    norms = [node.name for node in model.graph.node if node.name.startswith(PREFIX)]
    half = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=blocked, node_block_list=norms
    )
    OnnxModel(half).topological_sort()  # required by ONNX; the converter appends its casts
    return half
