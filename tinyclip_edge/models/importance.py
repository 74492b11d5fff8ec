"""Rank on calibration pairs which units of its teacher a student should inherit.

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

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.importance import (
    Blocks,
    Ranking,
    ResNetRanking,
    StagedRanking,
    only_layers,
    plan_importance,
    score_embedding,
    search_layers,
)
from tinyclip_edge.inheritance.open_clip_kinds import RESNET
from tinyclip_edge.inheritance.plan import plan_uniform
from tinyclip_edge.inheritance.plan_types import Indices, InheritancePlan
from tinyclip_edge.inheritance.probe import PoolPoints, Probe, TowerProbe
from tinyclip_edge.inheritance.resnet_probe import ResNetProbe
from tinyclip_edge.inheritance.shape import ClipShape, TowerShape
from tinyclip_edge.inheritance.staged_probe import StagedProbe
from tinyclip_edge.inheritance.tower_kind import BOTH, TowerName
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS
from tinyclip_edge.losses import affinity_loss
from tinyclip_edge.models.clip import LoadedClip

Calibration: TypeAlias = "tuple[Tensor, Tensor]"  # float32 [N, 3, H, W] and int64 [N, L]

CHUNK = 32  # pairs run at once: bounds the memory of the activations
DRAWS = 4  # random directions a pair; on the starter teacher 8 chose no better, 1 worse
LAYER_PAIRS = 64  # pairs on which a choice of layers is scored
SEED = 0


@dataclass(frozen=True, slots=True)
class _Side:
    """One tower with its calibration inputs and the other tower's features."""

    stages: tuple[Blocks, ...]  # one in a transformer
    shape: TowerShape
    encode: Callable[[Tensor], Tensor]
    inputs: Tensor
    features: Tensor  # [N, D], unit norm, of the whole tower
    other_features: Tensor  # [N, D]
    scale: float
    after_pooling: nn.Module | None = None


def importance_plan(
    teacher: LoadedClip,
    shapes: tuple[ClipShape, ClipShape],
    calibration: Calibration,
    device: torch.device | None = None,
    *,
    towers: Sequence[TowerName] = BOTH,
) -> InheritancePlan:
    """Plan which units of some towers a student inherits, measured on pairs.

    ``shapes`` are the teacher's and the student's.

    The teacher is moved to ``device`` meanwhile; None: it runs where it is.

    Layers are searched by the affinity KL of the tower with only these; heads, neurons and
    channels are ranked within them. Raises InheritanceError for a kind of tower in which it cannot
    be measured, a student that does not fit, or unusable pairs.
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
    pairs = _checked(teacher, calibration)
    home = next(teacher.model.parameters()).device
    try:
        teacher.model.to(device or home)
        features = _both_features(teacher, pairs)
        rankings: dict[TowerName, Ranking | StagedRanking | ResNetRanking] = {}
        for name in towers:
            side = _side(teacher, getattr(teacher_shape, name), pairs, features, name)
            student_tower: TowerShape = getattr(student_shape, name)
            if student_tower.parts:
                visual = teacher.model.get_submodule("visual")
                rankings[name] = _rank_stages(side, student_tower, visual)
            elif student_tower.kind == RESNET.name:
                rankings[name] = _rank_resnet(side, student_tower, teacher.model)
            else:
                rankings[name] = _rank(side, student_tower.layers)
        image, text = (part.cpu() for part in features)
        embed = score_embedding(image, text, teacher.logit_scale)
        return plan_importance(teacher_shape, student_shape, rankings, embed)
    finally:
        teacher.model.to(home)


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
        return _features(model.encode_image, pixels), _features(model.encode_text, ids)


def _side(
    teacher: LoadedClip,
    shape: TowerShape,
    calibration: Calibration,
    features: tuple[Tensor, Tensor],
    tower: TowerName,
) -> _Side:
    model: Any = teacher.model
    own = 0 if tower == "image" else 1
    return _Side(
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
    """Return the layer after the pooling of an encoder of transformers; None without one."""
    points = TOWER_KINDS[shape.kind].probe
    if points is None or not points.pooled:
        return None
    try:
        return model.get_submodule(shape.prefix + points.pooled)
    except AttributeError:  # built without it
        return None


def _features(encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    return torch.cat(
        [F.normalize(encode(part).float(), dim=-1) for part in torch.split(inputs, CHUNK)]
    )


def _rank_stages(side: _Side, student: TowerShape, visual: nn.Module) -> StagedRanking:
    selected = _search(side, [part.blocks for part in student.parts])
    with only_layers(side.stages, selected), torch.enable_grad():
        with StagedProbe(visual.get_submodule("trunk"), side.shape.head_width) as probe:
            _add_inputs(side, probe)
        return StagedRanking(selected, probe.scores())


def _rank_resnet(side: _Side, student: TowerShape, model: nn.Module) -> ResNetRanking:
    # The first block of a stage has its only shortcut to the stage before.
    selected = _search(side, student.stages, first=1)
    with only_layers(side.stages, selected), torch.enable_grad():
        visual = model.get_submodule("visual")
        with ResNetProbe(visual, side.shape.head_width) as probe:
            _add_inputs(side, probe)
        return ResNetRanking(selected, probe.scores())


def _rank(side: _Side, layers: int) -> Ranking:
    selected = _search(side, [layers])
    points = TOWER_KINDS[side.shape.kind].probe
    assert points is not None  # checked before
    with only_layers(side.stages, selected), torch.enable_grad():
        probed = (side.stages[0].modules, points, side.shape.head_width, _pool_points(side))
        with TowerProbe(*probed, pooled=side.after_pooling) as probe:
            _add_inputs(side, probe)
        return Ranking(selected[0], probe.scores())


def _search(side: _Side, counts: Sequence[int], *, first: int = 0) -> tuple[Indices, ...]:
    """Return which blocks of each stage are inherited, one stage after the other.

    The ``first`` ones of each are always.
    """
    whole = [tuple(range(len(stage.modules))) for stage in side.stages]
    selected: list[Indices] = []
    for number, count in enumerate(counts):
        rest = whole[number + 1 :]
        choice: Indices = ()
        cost = partial(_cost_of_stage, side, tuple(selected), tuple(rest), first)
        if count > first:
            choice = search_layers(len(whole[number]) - first, count - first, cost)
        selected.append(_after(first, choice))
    return tuple(selected)


def _after(first: int, choice: Indices) -> Indices:
    """Return the blocks of a choice among those after the ``first`` ones, and these."""
    return (*range(first), *(first + block for block in choice))


def _cost_of_stage(
    side: _Side,
    before: tuple[Indices, ...],
    after: tuple[Indices, ...],
    first: int,
    choice: Indices,
) -> float:
    return _kl(side, (*before, _after(first, choice), *after))


def _add_inputs(side: _Side, probe: Probe) -> None:
    """Run a tower on all calibration inputs under a probe."""
    generator = torch.Generator().manual_seed(SEED)
    for inputs in torch.split(side.inputs, CHUNK):
        logits = side.scale * _features(side.encode, inputs) @ side.other_features.T
        probe.add(logits, DRAWS, generator)


def _pool_points(side: _Side) -> PoolPoints | None:
    """Return where the attention pool of a timm trunk is probed; None without one."""
    pool: Any = getattr(side.stages[0].owner, "attn_pool", None)
    if pool is None or not side.shape.pool_heads:
        return None
    return PoolPoints(pool.proj, pool.mlp.fc2, side.shape.pool_head_width)


@torch.no_grad()
def _kl(side: _Side, layers: tuple[Indices, ...]) -> float:
    """Return the affinity KL of the tower with only these layers of each stage."""
    with only_layers(side.stages, layers):
        features = _features(side.encode, side.inputs[:LAYER_PAIRS])
    full_features, other_features = side.features[:LAYER_PAIRS], side.other_features[:LAYER_PAIRS]
    scales = {"student_scale": side.scale, "teacher_scale": side.scale}
    return float(
        affinity_loss(features, other_features, full_features, other_features, **scales).kl
    )
