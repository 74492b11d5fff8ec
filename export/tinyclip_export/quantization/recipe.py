"""A recipe converts one tower's float file into another file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tinyclip_edge.errors import ConfigError, did_you_mean
from tinyclip_export.layout import Feeds


@dataclass(frozen=True, slots=True)
class QuantizeJob:
    """One tower to convert."""

    tower: str  # "image" or "text"
    source: Path  # fp32
    target: Path
    feeds: Feeds | None = None  # calibration inputs, for recipes that need them
    keep_float: frozenset[str] = frozenset()  # names of nodes that stay float
    ranges: Any = None  # result of measure_ranges; None to measure them on `feeds`

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


def check_choices(recipe: Recipe, name: str, allowed: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError for a field of a recipe whose value is not an allowed one."""
    for key, values in allowed.items():
        value = getattr(recipe, key)
        if value not in values:
            raise ConfigError(f"{name}: {key} '{value}' is unknown{did_you_mean(value, values)}")
