"""Dynamic int8 quantization of an exported tower with onnxruntime's quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from tinyclip_edge.config.preset import DynamicInt8, allowed_values
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models.quiet import quiet
from tinyclip_export.onnx_passes.exporter import strip_traces
from tinyclip_export.onnx_passes.fuse_attention import (
    use_attention_operator,
    use_multi_head_attention,
)
from tinyclip_export.onnx_passes.graph_utils import (
    constants,
    remove_unused_constants,
    unshare_weights,
)
from tinyclip_export.onnx_passes.rms_norm import remove_means, use_rms_norms
from tinyclip_export.onnx_passes.split_ffn import halve_feed_forwards
from tinyclip_export.quantization.overflow_safe import make_pair_safe
from tinyclip_export.quantization.recipe import QuantizeJob, check_choices
from tinyclip_export.quantization.token_embedding import TABLE_BITS, quantize_table

OPERATORS = ("MatMul", "Gemm")
_DEFAULTS = DynamicInt8()


@dataclass(frozen=True, slots=True)
class Int8Recipe:
    """Linear layers in int8; norms, softmax, attention products and convolutions stay float.

    Activations are uint8 with a scale computed per call; weights have one scale per column.
    `weight_range`: "overflow_safe" and "7 bit" are correct on every CPU, "8 bit" overflows on x86
    without VNNI unless the session is set to be precise (see overflow_safe.py).
    """

    weights: str = _DEFAULTS.weights
    weight_range: str = _DEFAULTS.weight_range
    token_table: str = _DEFAULTS.token_table  # of the text tower
    attention: str = _DEFAULTS.attention
    norms: str = _DEFAULTS.norms  # see rms_norm.py
    feed_forward: str = _DEFAULTS.feed_forward  # see split_ffn.py

    integer: ClassVar = True
    operators: ClassVar = OPERATORS

    def __post_init__(self) -> None:
        check_choices(self, "int8 recipe", allowed_values(DynamicInt8))
        if self.weights == "uint8" and self.weight_range == "overflow_safe":
            raise ConfigError(
                "int8 recipe: weight_range 'overflow_safe' needs weights 'int8'; use '8 bit'"
            )

    @property
    def saturates(self) -> bool:
        """Whether x86 without VNNI needs the precise kernel."""
        return self.weights == "int8" and self.weight_range == "8 bit"

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form; the runtime chooses its kernel by `reduce_range`."""
        fixed = {"kind": "dynamic", "activations": "uint8", "per_channel": True}
        return {**fixed, **asdict(self), "reduce_range": not self.saturates}

    def write(self, job: QuantizeJob) -> None:
        """Write ``job.target``."""
        quantize_tower(job.source, job.target, self, text=job.text, keep_float=job.keep_float)


PORTABLE = Int8Recipe()


def quantize_tower(
    source: Path,
    target: Path,
    recipe: Int8Recipe,
    *,
    text: bool,
    keep_float: Collection[str] = (),
) -> None:
    """Write the fp32 tower `source` as int8 to `target`; nodes in `keep_float` stay float."""
    import onnx

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantize-") as scratch, quiet():
        source, halves, centred = _rewrite(source, Path(scratch), recipe)
        floats = [part for name in keep_float for part in halves.get(name, [name])]
        floats += products_of_activations(source)
        model = onnx.load(str(source))
        if recipe.saturates:
            unshare_weights(model.graph, OPERATORS)
        model = quantize_dynamically(model, recipe, floats)
        if recipe.weight_range == "overflow_safe":
            make_pair_safe(model, onnx.load(str(source)))
        if text:
            quantize_table(model, TABLE_BITS[recipe.token_table])
        drop_zero_points(model)
        if recipe.attention == "operator":
            use_attention_operator(model)
        elif recipe.attention == "multi_head":
            use_multi_head_attention(model)
        use_rms_norms(model, centred, standard=recipe.norms == "rms")
        remove_unused_constants(model.graph)
        strip_traces(model)
        temporary_file = Path(scratch) / "quantized.onnx"
        onnx.save_model(model, str(temporary_file))
        temporary_file.replace(target)


def quantize_dynamically(model: Any, recipe: Int8Recipe, exclude: Collection[str]) -> Any:  # noqa: ANN401
    """Quantize the products of `model`, a ModelProto, with onnxruntime's quantizer; return it.

    Nodes named in `exclude` stay float. The model is modified in place.
    """
    from onnxruntime.quantization import QuantizationMode, QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

    # The quantizer turns a Gemm into a MatMul of another name before it looks for these.
    names = [name for node in exclude for name in (node, f"{node}_MatMul")]
    quantizer = ONNXQuantizer(
        model,
        per_channel=True,
        reduce_range=recipe.weight_range != "8 bit",
        mode=QuantizationMode.IntegerOps,
        static=False,
        weight_qType=QuantType.QInt8 if recipe.weights == "int8" else QuantType.QUInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=None,
        nodes_to_quantize=[],
        nodes_to_exclude=names,
        op_types_to_quantize=list(OPERATORS),
        extra_options={"WeightSymmetric": True},  # for uint8 weights too
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()  # required by ONNX; the quantizer appends its nodes
    return quantizer.model.model


def _rewrite(
    source: Path, scratch: Path, recipe: Int8Recipe
) -> tuple[Path, dict[str, list[str]], list[str]]:
    """Apply the recipe's graph rewrites; return the file, split products, and norms to replace."""
    import onnx

    if recipe.feed_forward == "whole" and recipe.norms == "layer":
        return source, {}, []
    model = onnx.load(str(source))
    halves = halve_feed_forwards(model) if recipe.feed_forward == "halves" else {}
    centred = remove_means(model) if recipe.norms != "layer" else []
    remove_unused_constants(model.graph)
    target = scratch / source.name
    onnx.save_model(model, str(target))
    return target, halves, centred


def drop_zero_points(model: Any) -> None:  # noqa: ANN401
    """Remove weight zero points that are all 0, which cost a pass over each column."""
    from onnx import numpy_helper

    constants_by_name = constants(model.graph)
    for node in model.graph.node:
        if node.op_type == "MatMulInteger" and len(node.input) == 4:
            points = constants_by_name.get(node.input[3])
            if points is not None and not numpy_helper.to_array(points).any():
                del node.input[3]


def layers_with_weights(path: Path, operators: Collection[str]) -> list[str]:
    """Return the names of nodes of these types that have a weight, in the graph's order."""
    import onnx

    graph = onnx.load(str(path)).graph
    constant = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in operators and constant.intersection(node.input)
    ]


def products_of_activations(path: Path) -> list[str]:
    """Return the names of MatMul nodes without a weight: queries by keys, attention by values.

    A constant on the left, such as learnt queries, does not count as a weight, nor does one that is
    also added: a mask, of which a product selects a row.
    """
    import onnx

    graph = onnx.load(str(path)).graph
    added = {name for node in graph.node if node.op_type == "Add" for name in node.input}
    weights = {tensor.name for tensor in graph.initializer} - added
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] not in weights
    ]
