"""Weight-only quantization to 4 or 8 bits with float products: small files for onnxruntime."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from tinyclip_edge.config.preset import WeightOnly, allowed_values
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models.quiet import quiet
from tinyclip_export.onnx_passes.exporter import strip_traces
from tinyclip_export.quantization.fp16 import halve
from tinyclip_export.quantization.recipe import QuantizeJob, check_choices
from tinyclip_export.quantization.token_embedding import TABLE_BITS, quantize_table

OPERATORS = ("MatMul",)
KINDS = ("4 bit", "8 bit", "nf4")
INT8_PRODUCTS = 4  # accuracy_level: activations become int8 inside a block's product
_DEFAULTS = WeightOnly()


@dataclass(frozen=True, slots=True)
class WeightOnlyRecipe:
    """Weights of linear layers in blocks with one scale each; "nf4" is bitsandbytes' 4-bit float.

    `half` stores everything else in float16. Gemm and Conv stay float.
    """

    weights: str = "4 bit"
    block: int = _DEFAULTS.block  # weights of a column that share a scale
    token_table: str = _DEFAULTS.token_table
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

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {"kind": "weight only", **asdict(self)}

    def write(self, job: QuantizeJob) -> None:
        """Write ``job.target``."""
        with quiet():
            import onnx

            model = onnx.load(str(job.source))
            if job.text:
                quantize_table(model, TABLE_BITS[self.token_table])
            if self.half:
                model = halve(model)
            excluded = list(job.keep_float)
            model = (
                self._nf4(model, excluded)
                if self.weights == "nf4"
                else self._nbits(model, excluded)
            )
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
