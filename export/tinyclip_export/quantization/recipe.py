"""A recipe converts one tower's float file into another file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tinyclip_edge.errors import ConfigError, did_you_mean
from tinyclip_export.layout import Feeds
from tinyclip_export.quantization.block_rounding import BlockWeight, Matrix
from tinyclip_export.quantization.token_codebook import CodebookTable


@dataclass(frozen=True, slots=True)
class QuantizeJob:
    """One tower to convert."""

    tower: str  # "image" or "text"
    source: Path  # fp32
    target: Path
    feeds: Feeds | None = None  # calibration inputs, for recipes that need them
    keep_float: frozenset[str] = frozenset()  # names of nodes that stay float
    ranges: Any = None  # result of measure_ranges; None to measure them on `feeds`
    rounded: RoundedTower | None = None  # of a CompensatedRecipe; None to round to the nearest

    @property
    def text(self) -> bool:
        """Whether this is the text tower, which has a token table."""
        return self.tower == "text"


class Recipe(Protocol):
    """Converts an fp32 tower to one precision."""

    @property
    def saturates(self) -> bool:
        """Whether x86 without VNNI needs the precise kernel."""

    @property
    def integer(self) -> bool:
        """Whether products are computed in integers, so that outliers of activations cost bits."""

    @property
    def operators(self) -> tuple[str, ...]:
        """Types of nodes whose weights are quantized; each such node can stay float instead."""

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""

    def write(self, job: QuantizeJob) -> None:
        """Write ``job.target``. Raises ModelError for an unsupported graph."""


@runtime_checkable
class MeasuredRecipe(Recipe, Protocol):
    """A recipe whose activation ranges are measured beforehand."""

    @property
    def inputs(self) -> int:
        """Number of calibration pairs."""

    def measured(self, source: Path) -> tuple[str, ...]:
        """Return the types of nodes whose ranges are measured in a float file."""


@dataclass(frozen=True, slots=True)
class RoundedTower:
    """Weights rounded so that outputs change least on the calibration pairs."""

    weights: Mapping[str, BlockWeight]  # by the name of the float weight
    table: BlockWeight | CodebookTable | None = None  # the token table


@runtime_checkable
class CompensatedRecipe(Recipe, Protocol):
    """A recipe that may round weights to suit their inputs on the calibration pairs."""

    @property
    def compensates(self) -> bool:
        """Whether it rounds weights in that way."""

    @property
    def inputs(self) -> int:
        """Number of calibration pairs."""

    @property
    def roundings(self) -> Hashable:
        """What the rounded weights depend on, besides the float file."""

    def round_weights(self, source: Path, feeds: Feeds, sensitivity: Matrix | None) -> RoundedTower:
        """Round the weights of a float file; ``sensitivity``: see table_sensitivity.py."""


def check_choices(recipe: Recipe, name: str, allowed: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError for a field of a recipe whose value is not allowed."""
    for key, values in allowed.items():
        value = getattr(recipe, key)
        if value not in values:
            raise ConfigError(f"{name}: {key} '{value}' is unknown{did_you_mean(value, values)}")
