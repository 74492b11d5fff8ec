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
    """One of several calibrations; its pictures and texts need not match."""

    name: str
    weight: float
    inputs: Calibration

    def __str__(self) -> str:
        return f"{self.name} {self.weight:g}"


Calibrations: TypeAlias = "Calibration | Sequence[WeightedCalibration]"


def weighted(calibration: Calibrations) -> tuple[WeightedCalibration, ...]:
    """Return the calibrations with a weight above 0; a bare pair of tensors is the only one."""
    if isinstance(calibration, tuple) and isinstance(calibration[0], Tensor):
        pixels, ids = calibration
        assert isinstance(ids, Tensor)
        return (WeightedCalibration("general", 1.0, (pixels, ids)),)
    parts = [part for part in calibration if isinstance(part, WeightedCalibration)]
    return tuple(part for part in parts if part.weight > 0)
