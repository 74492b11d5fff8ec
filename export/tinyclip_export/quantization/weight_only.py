"""Weight-only quantization to 4 or 8 bits with float products: small files for onnxruntime."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tinyclip_edge.config.preset import WeightOnly, allowed_values
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models.quiet import quiet
from tinyclip_export.layout import Feeds
from tinyclip_export.onnx_passes.exporter import strip_traces
from tinyclip_export.onnx_passes.graph_utils import constants
from tinyclip_export.quantization.block_rounding import (
    BlockWeight,
    Matrix,
    error_feedback,
    round_blocks,
)
from tinyclip_export.quantization.fp16 import halve
from tinyclip_export.quantization.input_moments import input_moments
from tinyclip_export.quantization.recipe import QuantizeJob, RoundedTower, check_choices
from tinyclip_export.quantization.token_embedding import (
    TABLE_BITS,
    quantize_table,
    rounded_table,
)

OPERATORS = ("MatMul",)
KINDS = ("4 bit", "8 bit", "nf4")
INT8_PRODUCTS = 4  # accuracy_level: activations become int8 inside a block's product
DAMPING, TABLE_DAMPING = 0.01, 0.1  # of moments, see error_feedback
_DEFAULTS = WeightOnly()


@dataclass(frozen=True, slots=True)
class WeightOnlyRecipe:
    """Weights of linear layers in blocks with one scale each; "nf4" is bitsandbytes' 4-bit float.

    With the rounding "gptq", 4-bit weights and the token table are rounded so that outputs change
    least on the calibration pairs (see block_rounding.py). `half` stores everything else in
    float16. Gemm and Conv stay float.
    """

    weights: str = "4 bit"
    block: int = _DEFAULTS.block  # weights of a column that share a scale
    token_table: str = _DEFAULTS.token_table
    rounding: str = _DEFAULTS.rounding
    inputs: int = _DEFAULTS.inputs  # calibration pairs of gptq
    half: bool = False

    saturates: ClassVar = False  # products are computed in float
    integer: ClassVar = False
    operators: ClassVar = OPERATORS

    def __post_init__(self) -> None:
        check_choices(self, "weight-only recipe", {"weights": KINDS, **allowed_values(WeightOnly)})
        if self.block < 16 or self.block & (self.block - 1):
            raise ConfigError(
                f"weight-only recipe: block {self.block} must be a power of two from 16 up"
            )

    @property
    def compensates(self) -> bool:
        """Whether weights are rounded to suit their inputs on the calibration pairs."""
        return self.rounding == "gptq" and self.weights == "4 bit"

    @property
    def roundings(self) -> Hashable:
        """What the rounded weights depend on, besides the float file."""
        return replace(self, half=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {"kind": "weight only", **asdict(self)}

    def round_weights(self, source: Path, feeds: Feeds, sensitivity: Matrix | None) -> RoundedTower:
        """Return the 4-bit weights of a float file, and its token table."""
        import onnx
        from onnx import numpy_helper

        tensors = constants(onnx.load(str(source)).graph)
        weights = {}
        for names, moments in input_moments(source, feeds):
            feedback = error_feedback(moments, DAMPING)
            for name in names:
                weight = numpy_helper.to_array(tensors[name])
                weights[name] = round_blocks(weight, feedback, self.block)
        table = None
        if sensitivity is not None:
            feedback = error_feedback(sensitivity, TABLE_DAMPING)
            table = rounded_table(source, TABLE_BITS[self.token_table], feedback)
        return RoundedTower(weights, table)

    def write(self, job: QuantizeJob) -> None:
        """Write ``job.target``."""
        with quiet():
            import onnx

            model = onnx.load(str(job.source))
            originals = {
                node.output[0]: node.input[1]
                for node in model.graph.node
                if node.op_type in OPERATORS
            }
            if job.text:
                table = None if job.rounded is None else job.rounded.table
                quantize_table(model, TABLE_BITS[self.token_table], table)
            if self.half:
                model = halve(model)
            excluded = list(job.keep_float)
            model = (
                self._nf4(model, excluded)
                if self.weights == "nf4"
                else self._nbits(model, excluded)
            )
            if job.rounded is not None:
                _replace_weights(model, originals, job.rounded.weights)
            strip_traces(model)
            onnx.save_model(model, str(job.target))

    def _nbits(self, model: Any, excluded: list[str]) -> Any:  # noqa: ANN401
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )

        # The quantizer itself takes bits only from onnxruntime 1.24 on.
        config = DefaultWeightOnlyQuantConfig(
            bits=int(self.weights[0]),
            block_size=self.block,
            is_symmetric=True,
            accuracy_level=INT8_PRODUCTS,
            op_types_to_quantize=OPERATORS,
        )
        quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=excluded, algo_config=config)
        quantizer.process()
        return quantizer.model.model

    def _nf4(self, model: Any, excluded: list[str]) -> Any:  # noqa: ANN401
        from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

        quantizer = MatMulBnb4Quantizer(
            model, MatMulBnb4Quantizer.NF4, self.block, nodes_to_exclude=excluded
        )
        quantizer.process()
        return quantizer.model.model


def _replace_weights(
    model: Any,  # noqa: ANN401
    originals: Mapping[str, str],
    weights: Mapping[str, BlockWeight],
) -> None:
    """Replace the weights of quantized products; ``originals``: float weights by their outputs."""
    from onnx import numpy_helper

    tensors = constants(model.graph)
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        rounded = weights[originals[node.output[0]]]
        values, scales = tensors[node.input[1]], tensors[node.input[2]]
        kind = numpy_helper.to_array(scales).dtype
        packed = _packed(rounded, tuple(values.dims))
        values.CopyFrom(numpy_helper.from_array(packed, values.name))
        columns = np.ascontiguousarray(rounded.scales.T, kind).reshape(tuple(scales.dims))
        scales.CopyFrom(numpy_helper.from_array(columns, scales.name))


def _packed(weight: BlockWeight, shape: tuple[int, ...]) -> Any:  # noqa: ANN401
    """Return the bytes ``[N, blocks, block / 2]`` of MatMulNBits, whose zero point is 8."""
    outputs, blocks, _ = shape
    values = np.full((outputs, blocks * weight.block), 8, np.uint8)
    values[:, : len(weight.values)] = weight.values.T + 8
    pairs = values.reshape(outputs, blocks, weight.block)
    return pairs[..., 0::2] | (pairs[..., 1::2] << 4)  # the low half comes first
