"""The result of a search for a precision: smoothing, and layers that stay float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyclip_export.layout import TOWER_IO


@dataclass(frozen=True, slots=True)
class MixedPrecision:
    """Smoothing and float layers of both towers, in addition to a precision's recipes."""

    smooth: Mapping[str, float] = field(default_factory=dict)  # tower -> strength, 0 for none
    keep_float: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # tower -> layers

    @property
    def is_uniform(self) -> bool:
        """Whether nothing is smoothed or left in float."""
        return not any(self.smooth.values()) and not any(self.keep_float.values())

    def of(self, tower: str) -> MixedPrecision:
        """Return the choice of one tower alone."""
        return MixedPrecision(
            {tower: self.smooth.get(tower, 0.0)}, {tower: self.keep_float.get(tower, ())}
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the additions to the manifest's recipe; empty if uniform."""
        if self.is_uniform:
            return {}
        return {
            "smooth": {tower: self.smooth.get(tower, 0.0) for tower in TOWER_IO},
            "keep_float": {tower: list(self.keep_float.get(tower, ())) for tower in TOWER_IO},
        }


UNIFORM = MixedPrecision()
