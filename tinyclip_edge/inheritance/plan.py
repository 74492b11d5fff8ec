"""Decide what a student keeps of its teacher: layers, channels, heads, neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tinyclip_edge.errors import InheritanceError, did_you_mean
from tinyclip_edge.inheritance.shape import ClipShape, TowerShape

Indices: TypeAlias = "tuple[int, ...]"
LayerChoice: TypeAlias = Literal["published", "evenly"]
LAYER_CHOICES = ("published", "evenly")


@dataclass(frozen=True, slots=True)
class TowerPlan:
    """Teacher indices that one tower of the student is made of, in student order."""

    layers: Indices
    channels: Indices
    heads: tuple[Indices, ...]  # one a student layer
    neurons: tuple[Indices, ...]  # one a student layer
    positions: Indices
    teacher_heads: int
    head_width: int


@dataclass(frozen=True, slots=True)
class ResNetPlan:
    """Teacher indices that a ResNet image tower is made of, in student order."""

    stages: tuple[Indices, ...]  # blocks taken, one tuple a stage
    stem: tuple[Indices, ...]  # channels out of each of its three convolutions
    inner: tuple[Indices, ...]  # channels inside the blocks, one tuple a stage
    outer: tuple[Indices, ...]  # channels that a stage's blocks add up in, one tuple a stage
    heads: Indices  # of the attention pool
    positions: Indices
    head_width: int

    @property
    def layers(self) -> tuple[Indices, ...]:
        """Teacher blocks taken, per stage."""
        return self.stages


@dataclass(frozen=True, slots=True)
class InheritancePlan:
    """Everything a student keeps of its teacher."""

    image: TowerPlan | ResNetPlan
    text: TowerPlan
    embed: Indices
    tokens: Indices  # none: the student's vocabulary is another one, its table stays fresh
    method: str


def choose_layers(teacher: int, student: int, layers: LayerChoice = "published") -> Indices:
    """Return which teacher layers the student takes.

    ``published`` is TinyCLIP's choice: every ``teacher // student``-th from layer 0, so the last
    layer comes along only when nothing is left out. ``evenly`` keeps first and last. Raises
    InheritanceError for a choice of another name, and a student without layers or deeper.
    """
    if not 1 <= student <= teacher:
        raise InheritanceError(f"{student} layers cannot be chosen out of {teacher}")
    if layers == "published":
        step = teacher // student
        return tuple(range(0, step * student, step))
    if layers != "evenly":
        raise InheritanceError(
            f"unknown choice of layers '{layers}'{did_you_mean(layers, LAYER_CHOICES)}"
        )
    if student == 1:
        return (0,)
    gaps = student - 1
    # Integer rounding, halves up: the same on every machine.
    return tuple((2 * i * (teacher - 1) + gaps) // (2 * gaps) for i in range(student))


def plan_uniform(
    teacher: ClipShape, student: ClipShape, *, layers: LayerChoice = "published"
) -> InheritancePlan:
    """Plan TinyCLIP's manual inheritance: the front of every axis, layers as ``choose_layers``.

    Raises InheritanceError when the student is larger anywhere, or of another architecture.
    """
    if teacher.image.kind != student.image.kind:
        raise InheritanceError(
            f"a {_label(student)} image tower cannot inherit from a {_label(teacher)} one; "
            f"choose a {_label(teacher)} student"
        )
    if teacher.patch != student.patch:
        raise InheritanceError(
            f"patch size differs: teacher {teacher.patch}, student {student.patch} pixels"
        )
    _fits("student", "embed_dim", teacher.embed_dim, student.embed_dim)
    _fits("student", "vocabulary", teacher.vocabulary, student.vocabulary)
    return InheritancePlan(
        image=(
            _plan_resnet(teacher.image, student.image, layers)
            if teacher.image.kind == "resnet"
            else _plan_tower("image", teacher.image, student.image, layers)
        ),
        text=_plan_tower("text", teacher.text, student.text, layers),
        embed=tuple(range(student.embed_dim)),
        tokens=tuple(range(student.vocabulary)),
        method=f"uniform, {layers} layers",
    )


def _plan_tower(
    name: str, teacher: TowerShape, student: TowerShape, layers: LayerChoice
) -> TowerPlan:
    _check_heads(name, teacher, student)
    for what in ("width", "layers", "heads", "neurons"):
        _fits(f"{name} tower", what, getattr(teacher, what), getattr(student, what))
    _check_positions(name, teacher, student)
    return TowerPlan(
        layers=choose_layers(teacher.layers, student.layers, layers),
        channels=_front(student.width),
        heads=(_front(student.heads),) * student.layers,
        neurons=(_front(student.neurons),) * student.layers,
        positions=_front(student.positions),
        teacher_heads=teacher.heads,
        head_width=teacher.head_width,
    )


def _plan_resnet(teacher: TowerShape, student: TowerShape, layers: LayerChoice) -> ResNetPlan:
    _check_heads("image", teacher, student)
    _fits("image tower", "width", teacher.width, student.width)
    for number, (theirs, ours) in enumerate(zip(teacher.stages, student.stages, strict=True), 1):
        _fits(f"image tower, stage {number}", "blocks", theirs, ours)
    _check_positions("image", teacher, student)
    width = student.width
    doublings = [2**stage for stage in range(len(student.stages))]
    return ResNetPlan(
        stages=tuple(
            choose_layers(theirs, ours, layers)
            for theirs, ours in zip(teacher.stages, student.stages, strict=True)
        ),
        stem=(_front(width // 2), _front(width // 2), _front(width)),
        inner=tuple(_front(width * factor) for factor in doublings),
        outer=tuple(_front(4 * width * factor) for factor in doublings),
        heads=_front(student.heads),
        positions=_front(student.positions),
        head_width=teacher.head_width,
    )


def _front(count: int) -> Indices:
    return tuple(range(count))


def _check_heads(name: str, teacher: TowerShape, student: TowerShape) -> None:
    if teacher.head_width != student.head_width:
        raise InheritanceError(
            f"{name} tower: heads are {student.head_width} wide in the student, "
            f"{teacher.head_width} in the teacher; whole heads cannot be cut"
        )


def _check_positions(name: str, teacher: TowerShape, student: TowerShape) -> None:
    if name == "image" and teacher.positions != student.positions:
        raise InheritanceError(
            f"image tower: {student.positions} positions in the student, {teacher.positions} in "
            "the teacher; interpolate the positional embedding first"
        )
    _fits(f"{name} tower", "context length", teacher.positions, student.positions)


def _fits(tower: str, what: str, teacher: int, student: int) -> None:
    if student > teacher:
        raise InheritanceError(
            f"{tower}: {what} {student} is more than the teacher's {teacher}; shrink the student"
        )


def _label(shape: ClipShape) -> str:
    return "ResNet" if shape.image.kind == "resnet" else "ViT"
