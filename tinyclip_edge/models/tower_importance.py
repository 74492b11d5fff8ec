"""Measure which units of one tower matter, on one or several calibrations.

Shapes: N pairs, L tokens, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.inheritance.importance import (
    Blocks,
    Ranking,
    ResNetRanking,
    StagedRanking,
    only_layers,
    search_layers,
)
from tinyclip_edge.inheritance.mixture import Scores, mixed_scores
from tinyclip_edge.inheritance.open_clip_kinds import RESNET
from tinyclip_edge.inheritance.plan_types import Indices
from tinyclip_edge.inheritance.probe import PoolPoints, Probe, TowerProbe, UnitScores
from tinyclip_edge.inheritance.resnet_probe import ResNetProbe
from tinyclip_edge.inheritance.shape import TowerShape
from tinyclip_edge.inheritance.staged_probe import StagedProbe, StagedScores
from tinyclip_edge.inheritance.tower_kind import TowerName
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS
from tinyclip_edge.losses import affinity_loss
from tinyclip_edge.models.calibration import Calibration
from tinyclip_edge.models.clip import LoadedClip

CHUNK = 32  # pairs run at once: bounds the memory of the activations
DRAWS = 4  # random directions per pair; on the starter teacher 8 were no better, 1 was worse
LAYER_PAIRS = 64  # pairs on which a choice of layers is scored
SEED = 0

AnyRanking: TypeAlias = Ranking | StagedRanking | ResNetRanking


@dataclass(frozen=True, slots=True)
class Side:
    """One tower with its calibration inputs and the other tower's features."""

    stages: tuple[Blocks, ...]  # one in a transformer
    shape: TowerShape
    encode: Callable[[Tensor], Tensor]
    inputs: Tensor
    features: Tensor  # [N, D], unit norm, of the whole tower
    other_features: Tensor  # [N, D]
    scale: float
    after_pooling: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class MeasuredTower:
    """The layers of a tower that a student inherits, and the scores of the units in them."""

    layers: tuple[Indices, ...]  # of each stage
    scores: tuple[Scores, ...]  # on each calibration

    def ranking(self, factors: Sequence[float]) -> AnyRanking:
        """Return the scores on all calibrations, each weighted by its factor."""
        units = mixed_scores(self.scores, factors)
        if isinstance(units, UnitScores):
            return Ranking(self.layers[0], units)
        if isinstance(units, StagedScores):
            return StagedRanking(self.layers, units)
        return ResNetRanking(self.layers, units)


def measure_tower(
    sides: Sequence[Side], factors: Sequence[float], student: TowerShape, model: nn.Module
) -> MeasuredTower:
    """Choose the layers of a tower and score the units in them on each calibration.

    Layers are searched for the lowest weighted sum of the affinity KLs.
    """
    counts, first = [student.layers], 0
    if student.parts:
        counts = [part.blocks for part in student.parts]
    elif student.kind == RESNET.name:
        # Only the first block of a stage has a shortcut that fits the stage before.
        counts, first = list(student.stages), 1
    selected = _search(sides, factors, counts, first)
    scores: list[Scores] = []
    with only_layers(sides[0].stages, selected), torch.enable_grad():
        for side in sides:
            with _probe(side, student, model) as probe:
                _add_inputs(side, probe)
            scores.append(probe.scores())
    return MeasuredTower(selected, tuple(scores))


def _probe(
    side: Side, student: TowerShape, model: nn.Module
) -> TowerProbe | StagedProbe | ResNetProbe:
    """Return a probe of the layers that currently run."""
    if student.parts:
        return StagedProbe(model.get_submodule("visual.trunk"), side.shape.head_width)
    if student.kind == RESNET.name:
        return ResNetProbe(model.get_submodule("visual"), side.shape.head_width)
    points = TOWER_KINDS[side.shape.kind].probe
    assert points is not None  # checked before
    blocks = side.stages[0].modules
    pool = _pool_points(side)
    return TowerProbe(blocks, points, side.shape.head_width, pool, pooled=side.after_pooling)


def tower_side(
    teacher: LoadedClip,
    shape: TowerShape,
    calibration: Calibration,
    features: tuple[Tensor, Tensor],
    tower: TowerName,
) -> Side:
    """Return a tower of the teacher with its inputs and the features ``[N, D]`` of both."""
    model: Any = teacher.model
    own = 0 if tower == "image" else 1
    return Side(
        Blocks.of(model, shape),
        shape,
        model.encode_image if tower == "image" else model.encode_text,
        calibration[own].to(next(model.parameters()).device),
        features[own],
        features[1 - own],
        teacher.logit_scale,
        _after_pooling(model, shape),
    )


def _after_pooling(model: nn.Module, shape: TowerShape) -> nn.Module | None:
    """Return the layer after the pooling of a transformers encoder; None without one."""
    points = TOWER_KINDS[shape.kind].probe
    if points is None or not points.pooled:
        return None
    try:
        return model.get_submodule(shape.prefix + points.pooled)
    except AttributeError:  # built without it
        return None


def unit_features(encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return the features ``[N, D]`` of inputs, unit norm."""
    return torch.cat(
        [F.normalize(encode(part).float(), dim=-1) for part in torch.split(inputs, CHUNK)]
    )


def _search(
    sides: Sequence[Side], factors: Sequence[float], counts: Sequence[int], first: int
) -> tuple[Indices, ...]:
    """Choose which blocks of each stage are inherited, one stage after the other.

    The first ``first`` blocks of each are always inherited.
    """
    whole = [tuple(range(len(stage.modules))) for stage in sides[0].stages]
    selected: list[Indices] = []
    for number, count in enumerate(counts):
        rest = whole[number + 1 :]
        choice: Indices = ()
        cost = partial(_cost_of_stage, sides, factors, tuple(selected), tuple(rest), first)
        if count > first:
            choice = search_layers(len(whole[number]) - first, count - first, cost)
        selected.append(_after(first, choice))
    return tuple(selected)


def _after(first: int, choice: Indices) -> Indices:
    """Return the first ``first`` blocks, and those of a choice that counts from after them."""
    return (*range(first), *(first + block for block in choice))


def _cost_of_stage(
    sides: Sequence[Side],
    factors: Sequence[float],
    before: tuple[Indices, ...],
    after: tuple[Indices, ...],
    first: int,
    choice: Indices,
) -> float:
    layers = (*before, _after(first, choice), *after)
    return sum(factor * _kl(side, layers) for side, factor in zip(sides, factors, strict=True))


def _add_inputs(side: Side, probe: Probe) -> None:
    """Run a tower on all calibration inputs under a probe."""
    generator = torch.Generator().manual_seed(SEED)
    for inputs in torch.split(side.inputs, CHUNK):
        logits = side.scale * unit_features(side.encode, inputs) @ side.other_features.T
        probe.add(logits, DRAWS, generator)


def _pool_points(side: Side) -> PoolPoints | None:
    """Return where the attention pool of a timm trunk is probed; None without one."""
    pool: Any = getattr(side.stages[0].owner, "attn_pool", None)
    if pool is None or not side.shape.pool_heads:
        return None
    return PoolPoints(pool.proj, pool.mlp.fc2, side.shape.pool_head_width)


@torch.no_grad()
def _kl(side: Side, layers: tuple[Indices, ...]) -> float:
    """Return the affinity KL of the tower with only these layers of each stage."""
    with only_layers(side.stages, layers):
        features = unit_features(side.encode, side.inputs[:LAYER_PAIRS])
    full_features, other_features = side.features[:LAYER_PAIRS], side.other_features[:LAYER_PAIRS]
    scales = {"student_scale": side.scale, "teacher_scale": side.scale}
    return float(
        affinity_loss(features, other_features, full_features, other_features, **scales).kl
    )
