"""The float file that a recipe quantizes, which may have products in place of convolutions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tinyclip_export.onnx_passes.graph_utils import is_convolutional
from tinyclip_export.onnx_passes.pointwise_products import pointwise_as_products
from tinyclip_export.quantization.qdq_residual import (
    FEW_PRODUCTS,
    OPERATORS,
    float_convolutions,
    is_integer_throughout,
)
from tinyclip_export.quantization.recipe import Recipe

LARGE_SHARE = 0.1  # of the quantized weights; a ConvNeXt has 0.06 in larger convolutions


def float_form(source: Path, recipe: Recipe, folder: Path) -> Path:
    """Return `source`, or a file in `folder` with its pointwise convolutions as products.

    Convolutions that have few channels or are not pointwise stay. So do all of them if the recipe
    quantizes convolutions and the tower is integer throughout, like a ResNet, or if the recipe does
    not quantize products.
    """
    if "MatMul" not in recipe.operators:
        return source
    import onnx

    model = onnx.load(str(source))
    if "Conv" in recipe.operators and is_integer_throughout(model):
        return source
    least = FEW_PRODUCTS if "Conv" in recipe.operators else _first_width(model) + 1
    if not pointwise_as_products(model, max(FEW_PRODUCTS, least)):
        return source
    target = folder / f"{source.stem}-products.onnx"
    onnx.save_model(model, str(target))
    return target


def _first_width(model: Any) -> int:  # noqa: ANN401
    """Return the channels of the first convolution; pointwise ones no wider belong to the stem.

    An early rounding error is the same all over a plain background, so a mean over positions does
    not remove it: with the one product of its stem in float, the lowest cosine of a trained
    MobileCLIP2-S0 rises from 0.88 to 0.998.
    """
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    first = next((node for node in model.graph.node if node.op_type == "Conv"), None)
    return sizes[first.input[1]][0] if first is not None and first.input[1] in sizes else 0


def is_mainly_convolutions(source: Path) -> bool:
    """Whether most weights of an image tower are in convolutions that cannot be products."""
    return is_convolutional(source) and not is_mainly_products(source)


def is_mainly_products(source: Path) -> bool:
    """Whether nearly all weights that can be quantized are in products and pointwise convolutions.

    This holds for a FastViT, whose depthwise convolutions stay float, but not for a ResNet.
    """
    import onnx

    model = onnx.load(str(source))
    if is_integer_throughout(model):
        return False
    pointwise_as_products(model)
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    floats = float_convolutions(model)
    weights = dict.fromkeys(OPERATORS, 0)
    for node in model.graph.node:
        if node.op_type in weights and node.name not in floats:
            weights[node.op_type] += sum(sizes.get(name, 0) for name in node.input[:2])
    return weights["Conv"] < LARGE_SHARE * sum(weights.values())
