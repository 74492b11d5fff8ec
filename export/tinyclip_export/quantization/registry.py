"""Which recipe makes which file: precisions by name, settings by preset, towers by their kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tinyclip_edge.config.preset import ExportPreset
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe
from tinyclip_export.quantization.fp16 import Fp16Recipe
from tinyclip_export.quantization.mixed_precision import PLAIN, MixedPrecision
from tinyclip_export.quantization.recipe import Recipe
from tinyclip_export.quantization.static_int8 import StaticRecipe
from tinyclip_export.quantization.weight_only import WeightOnlyRecipe

MANY = 4  # convolutions; a patch embedding is one


@dataclass(frozen=True, slots=True)
class TowerRecipes:
    """How both towers of a precision are made."""

    image: Recipe
    text: Recipe

    @property
    def saturates(self) -> bool:
        """Whether either tower needs the precise kernel on x86 without VNNI."""
        return self.image.saturates or self.text.saturates

    @property
    def integer(self) -> bool:
        """Whether products are computed in integers."""
        return self.text.integer

    @property
    def searchable(self) -> bool:
        """Whether layers differ in what they lose, so that some may stay float."""
        return bool(self.text.operators)

    def of(self, tower: str) -> Recipe:
        """Return one tower's recipe."""
        return self.image if tower == "image" else self.text

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form: the text tower's, and that of an image tower that differs."""
        found = self.text.as_dict()
        if self.image != self.text:
            found["image"] = self.image.as_dict()
        return found


def recipes_for(precision: str, preset: ExportPreset, *, convolutional: bool) -> TowerRecipes:
    """Return the recipes of a precision other than fp32."""
    text = _recipe(precision, preset)
    image = text
    if precision in ("int8", "uint8") and convolutional and preset.convolutions == "static":
        image = _recipe("static", preset)
    return TowerRecipes(image, text)


def _recipe(precision: str, preset: ExportPreset) -> Recipe:
    int8, weights = preset.int8, preset.weight_only
    if precision == "fp16":
        return Fp16Recipe()
    if precision == "int8":
        return Int8Recipe(**int8.model_dump())
    if precision == "uint8":
        return Int8Recipe("uint8", "8 bit", int8.token_table)
    if precision == "static":
        return StaticRecipe(**preset.static.model_dump())
    if precision == "w8":
        table = "float" if weights.token_table == "float" else "8 bit"
        return WeightOnlyRecipe("8 bit", weights.block, table)
    kind = "nf4" if precision == "bnb4" else "4 bit"
    half = precision == "q4f16"
    return WeightOnlyRecipe(kind, weights.block, weights.token_table, half)


def recipe_dicts(
    recipes: Mapping[str, TowerRecipes],
    precisions: tuple[str, ...],
    choices: Mapping[str, MixedPrecision] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the manifest's ``recipe``, with what a search chose beyond the presets."""
    made: dict[str, Any] = {"fp32": {"kind": "float"}}
    for precision, found in recipes.items():
        made[precision] = {**found.as_dict(), **choices.get(precision, PLAIN).as_dict()}
    return {precision: made[precision] for precision in precisions}


def is_convolutional(path: Path) -> bool:
    """Whether most of an image tower's layers are convolutions, as in a ResNet."""
    import onnx

    kinds = [node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node]
    return kinds.count("Conv") > MANY and kinds.count("Conv") > kinds.count("MatMul") / 2
