"""Record which of its teacher's units a student inherited, compact enough for one log line."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from tinyclip_edge.inheritance.plan_types import (
    Indices,
    InheritancePlan,
    ResNetPlan,
    StagedPlan,
    TowerPlan,
)
from tinyclip_edge.inheritance.shape import ClipShape, TowerShape

BINS = 32  # per axis; a shorter axis has one bin per unit


@dataclass(frozen=True, slots=True)
class Share:
    """Inherited units of one axis, and their share in equal bins from front to back."""

    of: int
    taken: int
    bins: tuple[float, ...]

    @classmethod
    def count(cls, indices: Indices, of: int) -> Share:
        """Count the selected ``indices`` of an axis of ``of`` units, 0 if no tower inherits."""
        parts, selected = min(BINS, of), set(indices)
        edges = [part * of // max(1, parts) for part in range(parts + 1)]
        bins = tuple(
            round(sum(unit in selected for unit in range(low, high)) / (high - low), 2)
            for low, high in pairwise(edges)
        )
        return cls(of, len(selected), bins)


@dataclass(frozen=True, slots=True)
class TeacherLayer:
    """A layer or block of the teacher; ``student`` is the student's, None if not inherited."""

    name: str
    student: int | None
    units: dict[str, Share] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InheritedTower:
    """All layers of the teacher's tower, and the axes that they share; empty if not inherited."""

    layers: tuple[TeacherLayer, ...]
    shared: dict[str, Share]


@dataclass(frozen=True, slots=True)
class InheritedUnits:
    """Inherited units of both towers and of the embedding."""

    image: InheritedTower
    text: InheritedTower
    embedding: Share

    @classmethod
    def by(cls, plan: InheritancePlan, teacher: ClipShape) -> InheritedUnits:
        """Return the units that a plan inherits from a teacher of this shape."""
        return cls(
            image=_image(plan.image, teacher.image),
            text=_transformer(plan.text, teacher.text),
            embedding=Share.count(plan.embed, teacher.embed_dim),
        )


def _image(plan: TowerPlan | ResNetPlan | StagedPlan | None, teacher: TowerShape) -> InheritedTower:
    if isinstance(plan, ResNetPlan):
        return _resnet(plan, teacher)
    return _staged(plan, teacher) if isinstance(plan, StagedPlan) else _transformer(plan, teacher)


def _transformer(plan: TowerPlan | None, teacher: TowerShape) -> InheritedTower:
    if plan is None:
        return InheritedTower((), {})
    places = {layer: place for place, layer in enumerate(plan.layers)}
    layers = []
    for layer in range(teacher.layers):
        place = places.get(layer)
        units = {} if place is None else {
            "heads": Share.count(plan.heads[place], teacher.heads),
            "neurons": Share.count(plan.neurons[place], teacher.neurons),
        }  # fmt: skip
        layers.append(TeacherLayer(str(layer), place, units))
    return InheritedTower(tuple(layers), {"channels": Share.count(plan.channels, teacher.width)})


def _resnet(plan: ResNetPlan, teacher: TowerShape) -> InheritedTower:
    layers, place = [], 0
    for stage, blocks in enumerate(teacher.stages):
        width = teacher.width * 2**stage
        for block in range(blocks):
            name = f"{stage + 1}.{block}"
            if block not in plan.stages[stage]:
                layers.append(TeacherLayer(name, None))
                continue
            inner = plan.inner[stage][plan.stages[stage].index(block)]
            units = {
                "reduced channels": Share.count(inner.reduced, width),
                "inner channels": Share.count(inner.convolved, width),
                "outer channels": Share.count(plan.outer[stage], 4 * width),
            }
            layers.append(TeacherLayer(name, place, units))
            place += 1
    shared = {
        "stem channels": Share.count(plan.stem[-1], teacher.width),
        "pool heads": Share.count(plan.heads, teacher.heads),
    }
    return InheritedTower(tuple(layers), shared)


def _staged(plan: StagedPlan, teacher: TowerShape) -> InheritedTower:
    layers, place = [], 0
    shared = {"last channels": Share.count(plan.final, teacher.final)}
    for stage, (part, teacher_part) in enumerate(zip(plan.parts, teacher.parts, strict=True), 1):
        shared[f"channels {stage}"] = Share.count(part.channels, teacher_part.channels)
        for block in range(teacher_part.blocks):
            name = f"{stage}.{block}"
            if block not in part.blocks:
                layers.append(TeacherLayer(name, None))
                continue
            own = part.blocks.index(block)
            units = {"neurons": Share.count(part.neurons[own], teacher_part.neurons)}
            if teacher_part.heads:
                units["heads"] = Share.count(part.heads[own], teacher_part.heads)
            layers.append(TeacherLayer(name, place, units))
            place += 1
    return InheritedTower(tuple(layers), shared)
