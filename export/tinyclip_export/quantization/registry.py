"""Choose the recipe of each tower by precision, preset and kind of tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.errors import ConfigError, did_you_mean
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe
from tinyclip_export.quantization.fp16 import Fp16Recipe
from tinyclip_export.quantization.mixed_precision import UNIFORM, MixedPrecision
from tinyclip_export.quantization.recipe import Recipe
from tinyclip_export.quantization.static_int8 import StaticRecipe
from tinyclip_export.quantization.weight_only import WeightOnlyRecipe
from tinyclip_export.quantization.wide_activations import WideRecipe


@dataclass(frozen=True, slots=True)
class TowerRecipes:
    """The recipes of both towers of a precision."""

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
        """Whether single layers can stay float."""
        return bool(self.text.operators)

    def of(self, tower: str) -> Recipe:
        """Return one tower's recipe."""
        return self.image if tower == "image" else self.text

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form: the text tower's, plus the image tower's if it differs."""
        content = self.text.as_dict()
        if self.image != self.text:
            content["image"] = self.image.as_dict()
        return content


def recipes_for(precision: str, preset: ExportPreset, *, convolutional: bool) -> TowerRecipes:
    """Return the recipes of a precision other than fp32.

    `convolutional`: whether most of the image tower is in convolutions that cannot be products.
    """
    entry = PRECISIONS[precision]
    text = _recipe(entry.recipe, preset, entry.options)
    image = text
    if entry.recipe.startswith("dynamic") and convolutional and preset.convolutions == "static":
        image = _recipe("static", preset, {})
    return TowerRecipes(image, text)


def _recipe(kind: str, preset: ExportPreset, options: Mapping[str, Any]) -> Recipe:
    if kind not in KINDS:
        raise ConfigError(f"recipe '{kind}' is unknown{did_you_mean(kind, KINDS)}")
    return KINDS[kind](preset, options)


def _dynamic(preset: ExportPreset, options: Mapping[str, Any]) -> Recipe:
    return Int8Recipe(**{**preset.int8.model_dump(), **options})


def _dynamic_uint8(preset: ExportPreset, options: Mapping[str, Any]) -> Recipe:
    settings = {"weights": "uint8", "weight_range": "8 bit", "token_table": preset.int8.token_table}
    return Int8Recipe(**{**settings, **options})


def _static(preset: ExportPreset, options: Mapping[str, Any]) -> Recipe:
    return StaticRecipe(**{**preset.static.model_dump(), **options})


def _weight_only(preset: ExportPreset, options: Mapping[str, Any]) -> Recipe:
    settings = {**preset.weight_only.model_dump(), **options}
    if settings["weights"] == "8 bit" and settings["token_table"] in ("3 bit", "4 bit"):
        settings["token_table"] = "8 bit"  # not fewer bits than the layers
    if settings["weights"] != "4 bit":
        settings["rounding"] = "nearest"
    return WeightOnlyRecipe(**settings)


# One entry per kind of recipe; the precision's options override the preset's.
KINDS: dict[str, Callable[[ExportPreset, Mapping[str, Any]], Recipe]] = {
    "dynamic": _dynamic,
    "dynamic uint8": _dynamic_uint8,
    "float16": lambda _, options: Fp16Recipe(**options),
    "static": _static,
    "weight only": _weight_only,
    "wide": lambda preset, options: WideRecipe(**{**preset.wide.model_dump(), **options}),
}


def recipe_dicts(
    recipes: Mapping[str, TowerRecipes],
    precisions: tuple[str, ...],
    choices: Mapping[str, MixedPrecision] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the manifest's ``recipe``, including the choices of a search."""
    entries: dict[str, Any] = {"fp32": {"kind": "float"}}
    for precision, tower_recipes in recipes.items():
        choice = choices.get(precision, UNIFORM)
        if not tower_recipes.image.operators:
            choice = choice.of("text")  # the image tower is not the one that was searched
        entries[precision] = {**tower_recipes.as_dict(), **choice.as_dict()}
    return {precision: entries[precision] for precision in precisions}
