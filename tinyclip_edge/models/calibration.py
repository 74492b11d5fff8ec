"""Pictures and texts on which importance is measured.

Shapes: N pairs, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

Calibration: TypeAlias = "tuple[Tensor, Tensor]"  # float32 [N, 3, H, W] and int64 [N, L]


@dataclass(frozen=True, slots=True, eq=False)
class WeightedCalibration:
    """A calibration among others; pictures and texts need not belong together."""

    name: str
    weight: float
    inputs: Calibration

    def __str__(self) -> str:
        return f"{self.name} {self.weight:g}"


Calibrations: TypeAlias = "Calibration | Sequence[WeightedCalibration]"


def weighted(calibration: Calibrations) -> tuple[WeightedCalibration, ...]:
    """Return calibrations with their weights; a single pair of tensors is all there is."""
    if isinstance(calibration, tuple) and isinstance(calibration[0], Tensor):
        pixels, ids = calibration
        assert isinstance(ids, Tensor)
        return (WeightedCalibration("general", 1.0, (pixels, ids)),)
    parts = [part for part in calibration if isinstance(part, WeightedCalibration)]
    return tuple(part for part in parts if part.weight > 0)
