"""16-bit activations with 8-bit weights for NPUs: every operator is quantized (QDQ format)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from tinyclip_edge.config.preset import WideActivations
from tinyclip_edge.models.quiet import quiet
from tinyclip_export.onnx_passes.exporter import strip_traces
from tinyclip_export.onnx_passes.graph_utils import inferred_values, raise_opset
from tinyclip_export.onnx_passes.plain_norm import PREFIX
from tinyclip_export.quantization.recipe import QuantizeJob

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types

OPSET = 21  # the first whose QuantizeLinear has 16 bits
# Norms of embeddings may be twice as large as the calibration's, and squares four times.
_NORM_ROOMS = {"ReduceL2": 2.0, "Sqrt": 2.0, "Mul": 4.0, "ReduceSum": 4.0}
_DEFAULTS = WideActivations()


@dataclass(frozen=True, slots=True)
class WideRecipe:
    """Activations uint16, weights uint8 with one scale per tensor, as Qualcomm's HTP supports them.

    Nothing stays float but the input and the output: an NPU would hand single float nodes to the
    CPU. The token table has 8 bits too, and is widened after its lookup.
    """

    inputs: int = _DEFAULTS.inputs  # calibration pairs

    saturates: ClassVar = False  # no processor adds these products in 16 bits
    integer: ClassVar = True
    operators: ClassVar[tuple[str, ...]] = ()  # no layer can stay float

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {
            "kind": "static",
            "format": "QDQ",
            "activations": "16 bit",
            "weights": "uint8",
            "per_channel": False,
            **asdict(self),
            "reduce_range": True,
        }

    def measured(self, source: Path) -> tuple[str, ...]:
        """Return the types of nodes whose ranges are measured: all of the graph."""
        import onnx

        graph = onnx.load(str(source), load_external_data=False).graph
        return tuple(sorted({node.op_type for node in graph.node}))

    def write(self, job: QuantizeJob) -> None:
        """Write ``job.target`` with the ranges of the job."""
        with quiet():
            import onnx
            from onnxruntime.quantization import QuantType
            from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
            from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

            model = onnx.load(str(job.source))
            raise_opset(model, OPSET)
            model.graph.value_info.extend(inferred_values(model))
            config = get_qnn_qdq_config(
                model,
                None,
                activation_type=QuantType.QUInt16,
                weight_type=QuantType.QUInt8,
                init_overrides={
                    **{name: [{"quant_type": QuantType.QUInt8}] for name in _tables(model)},
                    **_norm_ranges(model, job.ranges),
                },
            )
            quantizer = QDQQuantizer(
                model,
                per_channel=False,
                reduce_range=False,
                weight_qType=config.weight_type,
                activation_qType=config.activation_type,
                tensors_range=job.ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=[],
                op_types_to_quantize=config.op_types_to_quantize,
                extra_options=config.extra_options,
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
            quantized = quantizer.model.model
            strip_traces(quantized)
            onnx.save_model(quantized, str(job.target))


def _norm_ranges(model: ModelProto, ranges: Any) -> dict[str, list[dict[str, Any]]]:  # noqa: ANN401
    """Return ranges of the final norm that give unit norm beyond the calibration's inputs too."""
    import numpy as np

    output = model.graph.output[0].name
    overrides = {output: [_range(-1.0, 1.0)]}
    for node in model.graph.node:
        room = _NORM_ROOMS.get(node.op_type, 0.0)
        if room and (node.op_type == "ReduceL2" or node.name.startswith(PREFIX)):
            largest = float(np.max(ranges[node.output[0]].range_value[1]))
            overrides[node.output[0]] = [_range(0.0, room * largest)]
    return overrides


def _range(least: float, most: float) -> dict[str, Any]:
    import numpy as np

    return {"rmin": np.array(least, np.float32), "rmax": np.array(most, np.float32)}


def _tables(model: ModelProto) -> list[str]:
    """Return the names of the float tables in which a Gather looks up rows."""
    from onnx import TensorProto

    floats = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    return sorted(
        {n.input[0] for n in model.graph.node if n.op_type == "Gather" and n.input[0] in floats}
    )
