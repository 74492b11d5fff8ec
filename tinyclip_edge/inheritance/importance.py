"""Choose the layers, heads, neurons and channels that a teacher's affinities need most.

Scores are curvatures of the affinity KL, not its gradient: that is zero where student and teacher
agree. Shapes: N pairs, D embedding dimension, H channels, A heads, I neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor, nn

from tinyclip_edge.inheritance.plan import (
    Indices,
    InheritancePlan,
    TowerPlan,
    choose_layers,
    plan_uniform,
)
from tinyclip_edge.inheritance.probe import UnitScores
from tinyclip_edge.inheritance.shape import ClipShape, TowerShape

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names


@dataclass(frozen=True, slots=True)
class Ranking:
    """The layers that a tower keeps, and the scores of the units in them."""

    layers: Indices
    units: UnitScores


def plan_importance(
    teacher: ClipShape, student: ClipShape, image: Ranking, text: Ranking, embed: Tensor
) -> InheritancePlan:
    """Plan a student of the best units, in the teacher's order; ties go to the front.

    ``embed [D]`` ranks the shared space. Raises InheritanceError as ``plan_uniform`` does.
    """
    base = plan_uniform(teacher, student, layers="evenly")
    assert isinstance(base.image, TowerPlan)  # only transformers can be ranked
    return replace(
        base,
        image=_ranked(base.image, student.image, image),
        text=_ranked(base.text, student.text, text),
        embed=top(embed, student.embed_dim),
        method="uniform, by importance",
    )


def _ranked(base: TowerPlan, student: TowerShape, ranking: Ranking) -> TowerPlan:
    units = ranking.units
    return replace(
        base,
        layers=ranking.layers,
        channels=top(units.channels, student.width),
        heads=tuple(top(layer, student.heads) for layer in units.heads),
        neurons=tuple(top(layer, student.neurons) for layer in units.neurons),
    )


def top(scores: Tensor, count: int) -> Indices:
    """Return the indices of the ``count`` highest scores, ascending."""
    best = scores.argsort(descending=True, stable=True)[:count]
    return tuple(sorted(best.tolist()))


def search_layers(teacher: int, student: int, cost: Callable[[Indices], float]) -> Indices:
    """Return ``student`` of ``teacher`` layers that no exchange of a single layer makes cheaper.

    Starts at the better of the two fixed choices and takes each exchange that helps.
    """
    seen: dict[Indices, float] = {}

    def priced(layers: Indices) -> float:
        if layers not in seen:
            seen[layers] = cost(layers)
        return seen[layers]

    if student == teacher:
        return tuple(range(teacher))
    best = min(
        choose_layers(teacher, student, "evenly"),
        choose_layers(teacher, student, "published"),
        key=priced,
    )
    while True:
        cheaper = (n for n in _exchanges(best, teacher) if priced(n) < priced(best))
        found = next(cheaper, None)
        if found is None:
            return best
        best = found


def _exchanges(layers: Indices, teacher: int) -> Iterator[Indices]:
    for out in layers:
        for new in range(teacher):
            if new not in layers:
                yield tuple(sorted({*layers, new} - {out}))


@contextmanager
def only_layers(transformer: OpenClip, layers: Sequence[int]) -> Iterator[None]:
    """Let a transformer run through some of its blocks only."""
    blocks = transformer.resblocks
    transformer.resblocks = nn.ModuleList(blocks[layer] for layer in layers)
    try:
        yield
    finally:
        transformer.resblocks = blocks


def score_embedding(image: Tensor, text: Tensor, scale: float) -> Tensor:
    """Return the importance ``[D]`` of each dimension of unit-norm features ``[N, D]``."""

    def side(ours: Tensor, theirs: Tensor) -> Tensor:
        p = (scale * ours @ theirs.T).softmax(dim=-1)
        variance = p @ theirs.square() - (p @ theirs).square()
        return (ours.square() * variance).mean(dim=0)

    return scale**2 * (side(image, text) + side(text, image))
