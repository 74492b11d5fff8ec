"""Measure on calibration pairs which of its teacher's units a student should inherit.

Shapes: N pairs, L tokens, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.importance import plan_importance, score_embedding
from tinyclip_edge.inheritance.mixture import mixed_tensor, mixture_factors, shared_units
from tinyclip_edge.inheritance.plan import plan_uniform
from tinyclip_edge.inheritance.plan_types import InheritancePlan
from tinyclip_edge.inheritance.shape import ClipShape
from tinyclip_edge.inheritance.tower_kind import BOTH, TowerName
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS
from tinyclip_edge.models.calibration import (
    Calibration,
    Calibrations,
    WeightedCalibration,
    weighted,
)
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.tower_importance import (
    MeasuredTower,
    measure_tower,
    tower_side,
    unit_features,
)


def importance_plan(
    teacher: LoadedClip,
    shapes: tuple[ClipShape, ClipShape],
    calibration: Calibrations,
    device: torch.device | None = None,
    *,
    towers: Sequence[TowerName] = BOTH,
) -> InheritancePlan:
    """Plan which units of ``towers`` a student inherits, by importance measured on pairs.

    ``shapes`` are the teacher's and the student's. With several calibrations, importance refers to
    the sum of their losses, see ``inheritance.mixture``.

    The teacher is moved to ``device`` for the measurement; with None it runs where it is.

    Layers are chosen by the affinity KL of a tower with these layers only; heads, neurons and
    channels are ranked within them. Raises InheritanceError for a kind of tower in which importance
    cannot be measured, a student that does not fit, or unusable pairs.
    """
    teacher_shape, student_shape = shapes
    for tower in (getattr(teacher_shape, name) for name in towers):
        if TOWER_KINDS[tower.kind].probe is None:
            raise InheritanceError(
                f"importance cannot be measured in {teacher.name}'s {tower.kind}; set inherit.plan "
                "to evenly or published"
            )
    # A student that does not fit is refused before the measurements.
    plan_uniform(teacher_shape, student_shape, layers="evenly", towers=towers)
    parts = weighted(calibration)
    inputs = [_checked(teacher, part.inputs) for part in parts]
    home = next(teacher.model.parameters()).device
    try:
        teacher.model.to(device or home)
        features = [_both_features(teacher, pairs) for pairs in inputs]
        embeds = [
            score_embedding(image.cpu(), text.cpu(), teacher.logit_scale)
            for image, text in features
        ]
        factors = mixture_factors([part.weight for part in parts], embeds)
        towers_measured: dict[TowerName, MeasuredTower] = {}
        for name in towers:
            shape = getattr(teacher_shape, name)
            sides = [
                tower_side(teacher, shape, pairs, encoded, name)
                for pairs, encoded in zip(inputs, features, strict=True)
            ]
            student_tower = getattr(student_shape, name)
            towers_measured[name] = measure_tower(sides, factors, student_tower, teacher.model)
    finally:
        teacher.model.to(home)

    def planned(factors: Sequence[float]) -> InheritancePlan:
        rankings = {name: tower.ranking(factors) for name, tower in towers_measured.items()}
        embed = mixed_tensor(embeds, factors)
        return plan_importance(teacher_shape, student_shape, rankings, embed)

    return _noted(planned, parts, factors)


def _noted(
    planned: Callable[[Sequence[float]], InheritancePlan],
    parts: Sequence[WeightedCalibration],
    factors: Sequence[float],
) -> InheritancePlan:
    """Return the plan of all calibrations, with notes on what each alone would have chosen."""
    plan = planned(factors)
    if len(parts) == 1:
        return plan
    notes = []
    for number, part in enumerate(parts):
        alone = planned([float(each == number) for each in range(len(parts))])
        shares = shared_units(plan, alone)
        units = ", ".join(f"{share:.0%} of the {tower} tower's" for tower, share in shares.items())
        notes.append(f"of the units chosen in these layers, {part.name} alone chooses {units}")
    method = f"{plan.method} ({', '.join(map(str, parts))})"
    return replace(plan, method=method, notes=tuple(notes))


def _checked(teacher: LoadedClip, calibration: Calibration) -> Calibration:
    pixels, ids = calibration
    if len(pixels) != len(ids):
        raise InheritanceError(
            f"calibration holds {len(pixels):,} pictures and {len(ids):,} captions; give pairs"
        )
    if len(pixels) < 2:
        raise InheritanceError(
            f"importance needs at least 2 calibration pairs, not {len(pixels)}; raise "
            "inherit.calibration"
        )
    size = teacher.image_size
    if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
        raise InheritanceError(
            f"calibration pictures are {list(pixels.shape[1:])}, {teacher.name} takes "
            f"{[3, size, size]}"
        )
    missing = teacher.context_length - ids.shape[1]
    if missing < 0:
        raise InheritanceError(
            f"calibration captions have {ids.shape[1]} tokens, {teacher.name} takes "
            f"{teacher.context_length}"
        )
    return pixels, F.pad(ids, (0, missing))


def _both_features(teacher: LoadedClip, calibration: Calibration) -> tuple[Tensor, Tensor]:
    """Return the features ``[N, D]`` of pictures and texts, unit norm."""
    model: Any = teacher.model
    device = next(model.parameters()).device
    pixels, ids = (part.to(device) for part in calibration)
    with torch.no_grad():
        return unit_features(model.encode_image, pixels), unit_features(model.encode_text, ids)
