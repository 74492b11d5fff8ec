"""float16 towers: half the size, with float32 inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from tinyclip_edge.models.quiet import quiet
from tinyclip_export.onnx_passes.exporter import strip_traces
from tinyclip_export.onnx_passes.graph_utils import producers, replace_nodes
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
    _join_float_nodes(half, {*norms})
    OnnxModel(half).topological_sort()  # required by ONNX; the converter appends its casts
    return half


def _join_float_nodes(model: ModelProto, names: set[str]) -> None:
    """Let nodes that stay float read each other's outputs, not copies rounded to float16."""
    made = producers(model.graph)
    for node in model.graph.node:
        if node.name not in names:
            continue
        for index, value in enumerate(node.input):
            widened = made.get(value)
            halved = None if widened is None else made.get(widened.input[0])
            if widened is None or halved is None or widened.op_type != "Cast":
                continue
            origin = made.get(halved.input[0])
            if halved.op_type == "Cast" and origin is not None and origin.name in names:
                node.input[index] = halved.input[0]
    outputs = {output.name for output in model.graph.output}
    while True:
        read = outputs.union(name for node in model.graph.node for name in node.input)
        used = [n for n in model.graph.node if n.op_type != "Cast" or n.output[0] in read]
        if len(used) == len(model.graph.node):
            return
        replace_nodes(model.graph, used)
