"""The sparsity target of masks, and the Lagrangian penalty that enforces it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.tower_kind import TowerName
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits

START = 10.0
TOLERANCE = 0.01  # accepted distance from a target, as a share of the prunable parameters


def sparsity_target(step: int, *, start: float, target: float, warmup: int) -> float:
    """Return the target sparsity at ``step`` (from 0): linear over ``warmup``, then constant."""
    progress = 1.0 if warmup <= 0 else min(1.0, step / warmup)
    return start + (target - start) * progress


class Lagrangian(nn.Module):
    """Penalty for missing the sparsity target.

    The multipliers are trained by gradient ascent: put them into an optimizer group with
    ``maximize=True`` and without weight decay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lambda_1 = nn.Parameter(torch.tensor(START))
        self.lambda_2 = nn.Parameter(torch.tensor(START))

    def forward(self, sparsity: Tensor, target: float) -> Tensor:
        """Return lambda_1 · gap + lambda_2 · gap², where gap = max(target - sparsity, 0)."""
        gap = (target - sparsity).clamp_min(0.0)
        return self.lambda_1 * gap + self.lambda_2 * gap.square()


def check_reachable(
    units: ClipUnits,
    keep: float,
    *,
    uniform_shapes: bool = False,
    whole: Collection[TowerName] = (),
) -> None:
    """Raise InheritanceError when masks cannot reduce a CLIP to the share ``keep``.

    ``keep`` is a share of the prunable parameters. It must exceed the share of all parameters that
    masks do not cover (embeddings, convolution, LayerNorms, projections), the share of a tower that
    stays ``whole`` and, with ``uniform_shapes``, the size of the smallest ordinary CLIP, which has
    one head per layer.
    """
    if not 0 < keep <= 1:
        raise InheritanceError(f"keep {keep:g} is not a share: give a number above 0, at most 1")
    fixed_share = units.fixed / (units.fixed + units.prunable)
    if keep <= fixed_share:
        raise InheritanceError(
            f"keep {keep:g} is out of reach: embeddings, convolution, LayerNorms and projections, "
            f"which masks do not cover, are {fixed_share:.1%} of both towers; keep more"
        )
    for tower in whole:
        share = getattr(units, tower).prunable / units.prunable
        if keep <= share:
            raise InheritanceError(
                f"keep {keep:g} is out of reach: the frozen {tower} tower has {share:.1%} of the "
                "prunable parameters; keep more"
            )
        if uniform_shapes:
            raise InheritanceError(
                f"uniform_shapes changes both towers, and the {tower} tower is frozen; set "
                "uniform_shapes: false"
            )
    if not uniform_shapes:
        return
    for tower_units in (units.image, units.text):
        if not tower_units.of_open_clip:
            raise InheritanceError(
                "uniform_shapes works only with open_clip's own transformers, not with a "
                f"{tower_units.kind}; set uniform_shapes: false"
            )
    smallest_share = (_smallest(units.image) + _smallest(units.text)) / units.prunable
    if keep < smallest_share - TOLERANCE:
        raise InheritanceError(
            f"keep {keep:g} is out of reach with uniform_shapes: one head per layer is "
            f"{smallest_share:.1%} of the prunable parameters; keep more, "
            "or set uniform_shapes: false"
        )


def _smallest(units: TowerUnits) -> int:
    """Prunable parameters of the smallest ordinary tower with as many layers."""
    layers, width = len(units.heads), units.head_width
    return TowerUnits(width, width, (1,) * layers, (1,) * layers, units.positions).prunable
