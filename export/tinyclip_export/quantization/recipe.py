"""What a recipe is asked to do: one tower's float file becomes another file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tinyclip_export.layout import Feeds


@dataclass(frozen=True, slots=True)
class QuantizeJob:
    """One tower to convert."""

    tower: str  # "image" or "text"
    source: Path  # fp32
    target: Path
    feeds: Feeds | None = None  # calibration inputs, for recipes that need them
    keep_float: frozenset[str] = frozenset()  # nodes that stay as they are
    ranges: Any = None  # static.measure_ranges of the source; None to measure them from `feeds`

    @property
    def text(self) -> bool:
        """Whether it has a token table."""
        return self.tower == "text"


class Recipe(Protocol):
    """How one precision is made of fp32."""

    @property
    def saturates(self) -> bool:
        """Whether x86 without VNNI needs the precise kernel for it."""

    @property
    def integer(self) -> bool:
        """Whether products are computed in integers, so that outliers of activations cost bits."""

    @property
    def operators(self) -> tuple[str, ...]:
        """Kinds of nodes whose weights lose bits; such a node may stay float instead."""

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""

    def write(self, job: QuantizeJob) -> None:
        """Write ``job.target``. Raises ModelError for a graph that the recipe cannot take."""
