"""The float file that a recipe quantizes, which may have products in place of convolutions."""

from __future__ import annotations

from pathlib import Path

from tinyclip_export.onnx_passes.pointwise_products import pointwise_as_products
from tinyclip_export.quantization.qdq_residual import FEW_PRODUCTS, is_integer_throughout
from tinyclip_export.quantization.recipe import Recipe


def float_form(source: Path, recipe: Recipe, folder: Path) -> Path:
    """Return `source`, or a file in `folder` with its pointwise convolutions as products.

    Those with few products per output stay convolutions, and so do others than pointwise ones. A
    recipe that quantizes convolutions keeps those of a tower that is integer throughout, as a
    ResNet is; one that quantizes no layer takes every tower as it is.
    """
    if "MatMul" not in recipe.operators:
        return source
    import onnx

    model = onnx.load(str(source))
    if "Conv" in recipe.operators and is_integer_throughout(model):
        return source
    if not pointwise_as_products(model, FEW_PRODUCTS):
        return source
    target = folder / f"{source.stem}-products.onnx"
    onnx.save_model(model, str(target))
    return target
