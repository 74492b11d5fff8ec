"""Static int8 quantization of an exported tower, with measured activation ranges (QDQ format)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from tinyclip_edge.config.preset import StaticInt8, allowed_values
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.quiet import quiet
from tinyclip_export.layout import Feed, Feeds
from tinyclip_export.onnx_passes.exporter import strip_traces
from tinyclip_export.onnx_passes.graph_utils import inferred_values, unshare_weights
from tinyclip_export.quantization.dynamic_int8 import products_of_activations
from tinyclip_export.quantization.overflow_safe import make_pair_safe
from tinyclip_export.quantization.qdq_fusion import make_fusable, widen_biases
from tinyclip_export.quantization.qdq_residual import (
    OPERATORS,
    float_convolutions,
    is_integer_throughout,
    outside_convolutions,
    quantized_kinds,
)
from tinyclip_export.quantization.recipe import QuantizeJob, check_choices
from tinyclip_export.quantization.token_embedding import TABLE_BITS, quantize_table

_DEFAULTS = StaticInt8()


@dataclass(frozen=True, slots=True)
class StaticRecipe:
    """Linear layers and convolutions in int8; norms, softmax, attention products, sums stay float.

    onnxruntime's default list of operators includes these too, which costs a ViT a cosine of 0.004
    instead of 0.0002. Sums between the convolutions of a ResNet are in integers as well; in other
    towers depthwise and small convolutions stay float (see qdq_residual.py). Weights have one scale
    per column or output channel; those of convolutions have seven bits unless `weight_range` is
    "8 bit".
    """

    weight_range: str = _DEFAULTS.weight_range
    token_table: str = _DEFAULTS.token_table
    inputs: int = _DEFAULTS.inputs  # calibration pairs
    symmetric: bool = _DEFAULTS.symmetric

    integer: ClassVar = True
    operators: ClassVar = OPERATORS

    def __post_init__(self) -> None:
        check_choices(self, "static recipe", allowed_values(StaticInt8))

    @property
    def saturates(self) -> bool:
        """Whether x86 without VNNI needs the precise kernel."""
        return self.weight_range == "8 bit"

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form; the runtime chooses its kernel by `reduce_range`."""
        fixed = {"kind": "static", "format": "QDQ", "activations": "8 bit", "per_channel": True}
        return {**fixed, **asdict(self), "weights": "int8", "reduce_range": not self.saturates}

    def measured(self, source: Path) -> tuple[str, ...]:
        """Return the types of nodes whose ranges are measured."""
        import onnx

        return tuple(quantized_kinds(onnx.load(str(source), load_external_data=False)))

    def write(self, job: QuantizeJob) -> None:
        """Write ``job.target``; ranges are measured on ``job.feeds`` unless the job has them."""
        quantize_static_tower(job, self)


def quantize_static_tower(job: QuantizeJob, recipe: StaticRecipe) -> None:
    """Measure ranges and write the quantized graph with onnxruntime's classes.

    Raises ModelError for activations that are not finite.
    """
    with quiet():
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.load(str(job.source))
    if recipe.saturates:
        unshare_weights(model.graph, OPERATORS)
    model.graph.value_info.extend(inferred_values(model))  # the quantizer needs types and ranks
    integers = is_integer_throughout(model)
    unsigned = integers and not recipe.symmetric
    floats = [*products_of_activations(job.source), *job.keep_float]
    ranges = job.ranges
    if ranges is None:
        assert job.feeds is not None
        kinds = recipe.measured(job.source)
        ranges = measure_ranges(job.source, job.target.parent, job.feeds, kinds)
    with quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=recipe.weight_range != "8 bit",
            weight_qType=QuantType.QInt8,
            # uint8 after a Relu uses all of 0 to 255, so that onnxruntime can remove the Relu.
            activation_qType=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=[
                *floats,
                *outside_convolutions(model),
                *float_convolutions(model),
            ],
            op_types_to_quantize=list(quantized_kinds(model)),
            # Float outputs let onnxruntime fuse a product into one node, which is 1.3x faster.
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
                "ActivationSymmetric": recipe.symmetric,
                "QuantizeBias": not recipe.symmetric,
            },
        )
        quantizer.quantize_model()
        quantized = quantizer.model.model
        if recipe.weight_range == "overflow_safe":
            make_pair_safe(quantized, onnx.load(str(job.source)))
        if integers:
            widen_biases(quantized.graph, OPERATORS)
        elif not recipe.symmetric:  # onnxruntime's fusions give scales to each reader
            make_fusable(quantized, OPERATORS)
        quantizer.model.topological_sort()  # required by ONNX; the quantizer appends its nodes
        if job.text:
            quantize_table(quantized, TABLE_BITS[recipe.token_table])
        strip_traces(quantized)
        onnx.save_model(quantized, str(job.target))


def static_float_layers(source: Path) -> list[str]:
    """Return the names of layers of a float tower that static int8 does not quantize."""
    import onnx

    return float_convolutions(onnx.load(str(source), load_external_data=False))


def measure_ranges(source: Path, folder: Path, feeds: Feeds, kinds: Sequence[str]) -> Any:  # noqa: ANN401
    """Return onnxruntime's TensorsData: minimum and maximum of the operators' inputs and outputs.

    ``kinds`` are the types of those operators.

    Feeds are processed one at a time, so memory does not grow with their number; a temporary folder
    is created in `folder`. Raises ModelError for values that are not finite.
    """
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    with tempfile.TemporaryDirectory(dir=folder, prefix=".calibrate-") as scratch, quiet():
        calibrator = create_calibrator(
            source,
            list(kinds),
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(_FeedReader(feeds))
        ranges = calibrator.compute_data()
    for name, range_data in ranges.items():
        if not all(np.isfinite(side).all() for side in range_data.range_value):
            raise ModelError(f"static int8: {name} is not finite on the calibration pairs")
    return ranges


class _FeedReader:
    """onnxruntime's CalibrationDataReader over lazily created feeds."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = iter(feeds())

    def get_next(self) -> Feed | None:
        """Return the next feed of a session, or None after the last."""
        return next(self._feeds, None)
