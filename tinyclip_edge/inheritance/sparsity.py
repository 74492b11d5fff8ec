"""How many parameters masks should take away, and the pressure that makes them do it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits

START = 10.0
TOLERANCE = 0.01  # a target is met within one point of the prunable parameters


def sparsity_target(step: int, *, start: float, target: float, warmup: int) -> float:
    """Return the sparsity asked for at ``step`` (from 0): linear over ``warmup``, then constant."""
    done = 1.0 if warmup <= 0 else min(1.0, step / warmup)
    return start + (target - start) * done


class Lagrangian(nn.Module):
    """Price of missing the sparsity target.

    The multipliers rise by gradient ascent: put them into an optimizer group with
    ``maximize=True``, without weight decay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lambda_1 = nn.Parameter(torch.tensor(START))
        self.lambda_2 = nn.Parameter(torch.tensor(START))

    def forward(self, sparsity: Tensor, target: float) -> Tensor:
        """Return lambda_1 · gap + lambda_2 · gap², where gap = max(target - sparsity, 0)."""
        gap = (target - sparsity).clamp_min(0.0)
        return self.lambda_1 * gap + self.lambda_2 * gap.square()


def check_reachable(units: ClipUnits, keep: float, *, uniform_shapes: bool = False) -> None:
    """Raise InheritanceError when masks cannot bring a CLIP down to the share ``keep``.

    ``keep`` is a share of the prunable parameters. It must exceed what no mask counts (embeddings,
    convolution, LayerNorms, projections) as a share of the towers, and with ``uniform_shapes`` the
    smallest ordinary CLIP: one head a layer.
    """
    if not 0 < keep <= 1:
        raise InheritanceError(f"keep {keep:g} is no share of a model: give one above 0, up to 1")
    fixed = units.fixed / (units.fixed + units.prunable)
    if keep <= fixed:
        raise InheritanceError(
            f"keep {keep:g} is out of reach: embeddings, convolution, LayerNorms and projections, "
            f"which no mask counts, are {fixed:.1%} of both towers; keep more"
        )
    if not uniform_shapes:
        return
    least = (_smallest(units.image) + _smallest(units.text)) / units.prunable
    if keep < least - TOLERANCE:
        raise InheritanceError(
            f"keep {keep:g} is out of reach with uniform_shapes: one head a layer is "
            f"{least:.1%} of what can be pruned; keep more, or set uniform_shapes: false"
        )


def _smallest(units: TowerUnits) -> int:
    """Prunable parameters of the smallest ordinary tower of as many layers."""
    layers, width = len(units.heads), units.head_width
    return TowerUnits(width, width, (1,) * layers, (1,) * layers, units.positions).prunable
