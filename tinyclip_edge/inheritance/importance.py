"""Choose the layers, heads, neurons and channels that matter most to a teacher's affinities.

Scores are curvatures of the affinity KL, because its gradient is zero where student and teacher
agree. Shapes: N pairs, D embedding dimension, H channels, A heads, I neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.plan import choose_layers, plan_uniform
from tinyclip_edge.inheritance.plan_types import (
    BlockChannels,
    Indices,
    InheritancePlan,
    ResNetPlan,
    StagedPlan,
    TowerPlan,
)
from tinyclip_edge.inheritance.probe import UnitScores
from tinyclip_edge.inheritance.resnet_probe import ResNetScores
from tinyclip_edge.inheritance.shape import ClipShape, TowerShape
from tinyclip_edge.inheritance.staged_probe import StagedScores
from tinyclip_edge.inheritance.tower_kind import TowerName
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS


@dataclass(frozen=True, slots=True)
class Ranking:
    """The inherited layers of a tower and the scores of the units in them."""

    layers: Indices
    units: UnitScores


@dataclass(frozen=True, slots=True)
class StagedRanking:
    """The inherited blocks of each stage of a FastViT and the scores of the units in them."""

    layers: tuple[Indices, ...]
    units: StagedScores


@dataclass(frozen=True, slots=True)
class ResNetRanking:
    """The inherited blocks of each stage of a ResNet and the scores of the units in them."""

    layers: tuple[Indices, ...]
    units: ResNetScores


def plan_importance(
    teacher: ClipShape,
    student: ClipShape,
    rankings: Mapping[TowerName, Ranking | StagedRanking | ResNetRanking],
    embed: Tensor,
) -> InheritancePlan:
    """Plan a student of the highest-scoring units, in the teacher's order; ties go to the front.

    Towers without a ranking are not inherited. ``embed [D]`` scores the embedding dimensions.
    Raises InheritanceError like ``plan_uniform``.
    """
    base = plan_uniform(teacher, student, layers="evenly", towers=tuple(rankings))
    plans: dict[TowerName, TowerPlan] = {}
    ranked, embed = {n: r for n, r in rankings.items() if isinstance(r, Ranking)}, embed.double()
    image = rankings.get("image")
    # The channels of a tower without a projection are the embedding: their costs are added up.
    bare = [name for name in ranked if not getattr(teacher, name).projects]
    for name in bare:
        embed = embed + ranked[name].units.channels.to(embed)
    for name in bare:
        units = ranked[name].units._replace(channels=embed)
        ranked[name] = replace(ranked[name], units=units)
    for name, ranking in ranked.items():
        plan = getattr(base, name)
        assert isinstance(plan, TowerPlan)  # only transformers have this kind of ranking
        plans[name] = _ranked(plan, getattr(student, name), ranking)
    planned: InheritancePlan = replace(
        base,
        image=plans.get("image"),
        text=plans.get("text"),
        embed=top(embed, student.embed_dim),
        method="uniform, by importance",
    )
    if isinstance(image, ResNetRanking):
        assert isinstance(base.image, ResNetPlan)
        return replace(planned, image=_ranked_resnet(base.image, image))
    if not isinstance(image, StagedRanking):
        return planned
    assert isinstance(base.image, StagedPlan)
    stages = _ranked_stages(base.image, (teacher.image, student.image), image)
    if teacher.image.projects:
        return replace(planned, image=stages)
    if bare:
        raise InheritanceError(
            "importance cannot choose the embedding when neither tower has a projection; set "
            "inherit.plan to evenly"
        )
    return replace(planned, image=stages, embed=stages.final)


def _ranked(base: TowerPlan, student: TowerShape, ranking: Ranking) -> TowerPlan:
    units, heads = ranking.units, ranking.units.heads
    if TOWER_KINDS[base.kind].shared:  # the shared tensor has one column per head
        heads = heads.sum(dim=0, keepdim=True).expand_as(heads)
    return replace(
        base,
        layers=ranking.layers,
        channels=top(units.channels, student.width),
        heads=tuple(top(layer, student.heads) for layer in heads),
        neurons=tuple(top(layer, student.neurons) for layer in units.neurons),
        pool_heads=top(units.pool_heads, student.pool_heads),
        pool_neurons=top(units.pool_neurons, student.pool_neurons),
    )


def _ranked_resnet(base: ResNetPlan, ranking: ResNetRanking) -> ResNetPlan:
    """Return the plan of the best units, as many of each kind as in ``base``."""
    units = ranking.units
    return replace(
        base,
        stages=ranking.layers,
        stem=_best(units.stem, base.stem),
        inner=tuple(
            tuple(BlockChannels(*_best(part[:2], part[2])) for part in zip(*stage, strict=True))
            for stage in zip(units.reduced, units.convolved, base.inner, strict=True)
        ),
        outer=_best(units.outer, base.outer),
        heads=top(units.pool_heads, len(base.heads)),
    )


def _best(scores: Iterable[Tensor], parts: Iterable[Indices]) -> tuple[Indices, ...]:
    """Return the indices of the highest of each tensor of scores, as many as in its part."""
    return tuple(top(each, len(part)) for each, part in zip(scores, parts, strict=True))


def _ranked_stages(
    base: StagedPlan, shapes: tuple[TowerShape, TowerShape], ranking: StagedRanking
) -> StagedPlan:
    """Return the plan of the best blocks, channels, heads and neurons of each stage.

    The channels of a stage are the best successors of the chosen channels of the stage before.
    ``shapes`` are the teacher's and the student's.
    """
    teacher, student = shapes
    units, parts = ranking.units, []
    channels = top(units.channels[0], student.width)
    for stage, part in enumerate(base.parts):
        ours = student.parts[stage]
        if stage:
            growth = teacher.parts[stage].channels // teacher.parts[stage - 1].channels
            channels = _top_successors(units.channels[stage], channels, growth, len(part.channels))
        parts.append(
            replace(
                part,
                blocks=ranking.layers[stage],
                channels=channels,
                heads=tuple(top(layer, ours.heads) for layer in units.heads[stage]),
                neurons=tuple(top(layer, ours.neurons) for layer in units.neurons[stage]),
            )
        )
    growth = teacher.final // teacher.parts[-1].channels
    final = _top_successors(units.final, channels, growth, len(base.final))
    return replace(base, parts=tuple(parts), final=final)


def _top_successors(scores: Tensor, channels: Indices, growth: int, count: int) -> Indices:
    """Return the best of the ``growth`` successors of each channel, ``count`` in all."""
    each = count // len(channels)
    return tuple(
        channel * growth + successor
        for channel in channels
        for successor in top(scores[channel * growth : (channel + 1) * growth], each)
    )


def top(scores: Tensor, count: int) -> Indices:
    """Return the indices of the ``count`` highest scores, ascending."""
    highest = scores.argsort(descending=True, stable=True)[:count]
    return tuple(sorted(highest.tolist()))


def search_layers(teacher: int, student: int, cost: Callable[[Indices], float]) -> Indices:
    """Choose ``student`` of ``teacher`` layers so that no exchange of one layer lowers the cost.

    The search is greedy and starts from the better of the two fixed choices.
    """
    costs: dict[Indices, float] = {}

    def cached_cost(layers: Indices) -> float:
        if layers not in costs:
            costs[layers] = cost(layers)
        return costs[layers]

    if student == teacher:
        return tuple(range(teacher))
    current = min(
        choose_layers(teacher, student, "evenly"),
        choose_layers(teacher, student, "published"),
        key=cached_cost,
    )
    while True:
        improvements = (
            n for n in _exchanges(current, teacher) if cached_cost(n) < cached_cost(current)
        )
        improvement = next(improvements, None)
        if improvement is None:
            return current
        current = improvement


def _exchanges(layers: Indices, teacher: int) -> Iterator[Indices]:
    for removed in layers:
        for added in range(teacher):
            if added not in layers:
                yield tuple(sorted({*layers, added} - {removed}))


class Blocks(NamedTuple):
    """The list of a tower's blocks, and the module that runs it."""

    owner: nn.Module
    name: str
    shared: str = ""  # name of a tensor that only the first block has, for all

    @classmethod
    def of(cls, model: nn.Module, shape: TowerShape) -> tuple[Blocks, ...]:
        """Return the blocks of each stage of a tower of a known kind; most have one stage."""
        kind = TOWER_KINDS[shape.kind]
        numbers = range(kind.first_stage, kind.first_stage + len(shape.stages))
        starts = [f"{kind.stages}{stage}." for stage in numbers] or [""]
        paths = [f"{shape.prefix}{start}{kind.blocks}".rstrip(".") for start in starts]
        owners = [(owner, name) for owner, _, name in (path.rpartition(".") for path in paths)]
        return tuple(cls(model.get_submodule(owner), name, kind.shared) for owner, name in owners)

    @property
    def modules(self) -> nn.Sequential | nn.ModuleList:
        """The blocks that currently run."""
        blocks: nn.Sequential | nn.ModuleList = getattr(self.owner, self.name)
        return blocks


@contextmanager
def only_layers(stages: Sequence[Blocks], layers: Sequence[Indices]) -> Iterator[None]:
    """Run a tower with only some blocks of each stage inside the context."""
    with ExitStack() as stack:
        for blocks, some in zip(stages, layers, strict=True):
            stack.enter_context(_only(blocks, some))
        yield


@contextmanager
def _only(blocks: Blocks, layers: Indices) -> Iterator[None]:
    everything = blocks.modules
    some = [everything[layer] for layer in layers]
    sequential = isinstance(everything, nn.Sequential)
    setattr(blocks.owner, blocks.name, nn.Sequential(*some) if sequential else nn.ModuleList(some))
    try:
        with _moved(blocks.shared, everything[0], some[0]):
            yield
    finally:
        setattr(blocks.owner, blocks.name, everything)


@contextmanager
def _moved(shared: str, first: nn.Module, target: nn.Module) -> Iterator[None]:
    """Lend another block, inside the context, the positions that the first one has for all."""
    if not shared or target is first:
        yield
        return
    path, _, name = shared.removesuffix(".weight").rpartition(".")
    attention = target.get_submodule(path)
    setattr(attention, name, first.get_submodule(path).get_submodule(name))
    setattr(attention, f"has_{name}", True)
    try:
        yield
    finally:
        delattr(attention, name)
        setattr(attention, f"has_{name}", False)


def score_embedding(image: Tensor, text: Tensor, scale: float) -> Tensor:
    """Return the importance ``[D]`` of each dimension of unit-norm features ``[N, D]``."""

    def one_direction(queries: Tensor, keys: Tensor) -> Tensor:
        p = (scale * queries @ keys.T).softmax(dim=-1)
        variance = p @ keys.square() - (p @ keys).square()
        return (queries.square() * variance).mean(dim=0)

    return scale**2 * (one_direction(image, text) + one_direction(text, image))
