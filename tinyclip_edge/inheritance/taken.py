"""Which part of its teacher a student took, small enough for a line of a log."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from tinyclip_edge.inheritance.plan import Indices, InheritancePlan, ResNetPlan, TowerPlan
from tinyclip_edge.inheritance.shape import ClipShape, TowerShape

BINS = 32  # of an axis; a shorter axis has one for each unit


@dataclass(frozen=True, slots=True)
class Share:
    """Units taken of one axis, and their share in equal parts of it, front to back."""

    of: int
    taken: int
    bins: tuple[float, ...]

    @classmethod
    def count(cls, kept: Indices, of: int) -> Share:
        """Count the ``kept`` indices of an axis of ``of`` units."""
        parts, chosen = min(BINS, of), set(kept)
        edges = [part * of // parts for part in range(parts + 1)]
        bins = tuple(
            round(sum(unit in chosen for unit in range(low, high)) / (high - low), 2)
            for low, high in pairwise(edges)
        )
        return cls(of, len(chosen), bins)


@dataclass(frozen=True, slots=True)
class TeacherLayer:
    """A layer, or block, of the teacher; ``student`` is None where it was left out."""

    name: str
    student: int | None
    units: dict[str, Share] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TowerTaken:
    """Every layer of the teacher's tower, and the axes that all of them share."""

    layers: tuple[TeacherLayer, ...]
    shared: dict[str, Share]


@dataclass(frozen=True, slots=True)
class Taken:
    """Both towers."""

    image: TowerTaken
    text: TowerTaken
    embedding: Share

    @classmethod
    def by(cls, plan: InheritancePlan, teacher: ClipShape) -> Taken:
        """Return what a plan takes of a teacher of this shape."""
        image = plan.image
        return cls(
            image=(
                _resnet(image, teacher.image)
                if isinstance(image, ResNetPlan)
                else _transformer(image, teacher.image)
            ),
            text=_transformer(plan.text, teacher.text),
            embedding=Share.count(plan.embed, teacher.embed_dim),
        )


def _transformer(plan: TowerPlan, teacher: TowerShape) -> TowerTaken:
    places = {layer: place for place, layer in enumerate(plan.layers)}
    layers = []
    for layer in range(teacher.layers):
        place = places.get(layer)
        units = {} if place is None else {
            "heads": Share.count(plan.heads[place], teacher.heads),
            "neurons": Share.count(plan.neurons[place], teacher.neurons),
        }  # fmt: skip
        layers.append(TeacherLayer(str(layer), place, units))
    return TowerTaken(tuple(layers), {"channels": Share.count(plan.channels, teacher.width)})


def _resnet(plan: ResNetPlan, teacher: TowerShape) -> TowerTaken:
    layers, place = [], 0
    for stage, blocks in enumerate(teacher.stages):
        width = teacher.width * 2**stage
        for block in range(blocks):
            name = f"{stage + 1}.{block}"
            if block not in plan.stages[stage]:
                layers.append(TeacherLayer(name, None))
                continue
            units = {
                "inner channels": Share.count(plan.inner[stage], width),
                "outer channels": Share.count(plan.outer[stage], 4 * width),
            }
            layers.append(TeacherLayer(name, place, units))
            place += 1
    shared = {
        "stem channels": Share.count(plan.stem[-1], teacher.width),
        "pool heads": Share.count(plan.heads, teacher.heads),
    }
    return TowerTaken(tuple(layers), shared)
