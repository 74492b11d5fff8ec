"""Plan which layers, channels, heads and neurons a student inherits from its teacher."""

from __future__ import annotations

from collections.abc import Sequence

from tinyclip_edge.errors import InheritanceError, did_you_mean
from tinyclip_edge.inheritance.open_clip_kinds import RESNET
from tinyclip_edge.inheritance.plan_types import (
    LAYER_CHOICES,
    BlockChannels,
    Indices,
    InheritancePlan,
    LayerChoice,
    ResNetPlan,
    StagedPlan,
    StageSelection,
    TowerPlan,
)
from tinyclip_edge.inheritance.shape import ClipShape, TowerShape
from tinyclip_edge.inheritance.tower_kind import BOTH, TowerName


def choose_layers(teacher: int, student: int, layers: LayerChoice = "published") -> Indices:
    """Return the indices of the teacher layers that a student inherits.

    ``published`` is TinyCLIP's choice: every ``teacher // student``-th layer from layer 0, without
    the last one unless all are inherited. ``evenly`` includes the first and the last. Raises
    InheritanceError for another choice, for no layers, and for more than the teacher has.
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
    # Integer arithmetic, halves rounded up: the same on every machine.
    return tuple((2 * i * (teacher - 1) + gaps) // (2 * gaps) for i in range(student))


def plan_uniform(
    teacher: ClipShape,
    student: ClipShape,
    *,
    layers: LayerChoice = "published",
    towers: Sequence[TowerName] = BOTH,
) -> InheritancePlan:
    """Plan TinyCLIP's manual inheritance: the first units of every axis, and ``choose_layers``.

    Raises InheritanceError when the student is larger in any dimension or of another architecture.
    """
    for tower in towers:
        _check_kinds(tower, getattr(teacher, tower), getattr(student, tower))
    if "image" in towers and teacher.patch != student.patch:
        raise InheritanceError(
            f"patch size differs: teacher {teacher.patch}, student {student.patch} pixels"
        )
    _check_size("student", "embed_dim", teacher.embed_dim, student.embed_dim)
    _check_size("student", "vocabulary", teacher.vocabulary, student.vocabulary)
    image: TowerPlan | ResNetPlan | StagedPlan | None = None
    if "image" in towers:
        image = _plan_image(teacher.image, student.image, layers)
    return InheritancePlan(
        image=image,
        text=_plan_tower("text", teacher.text, student.text, layers) if "text" in towers else None,
        embed=tuple(range(student.embed_dim)),
        tokens=tuple(range(student.vocabulary)),
        method=f"uniform, {layers} layers",
    )


def _plan_image(
    teacher: TowerShape, student: TowerShape, layers: LayerChoice
) -> TowerPlan | ResNetPlan | StagedPlan:
    if teacher.kind == RESNET.name:
        return _plan_resnet(teacher, student, layers)
    if teacher.parts:
        return plan_staged(teacher, student, layers)
    return _plan_tower("image", teacher, student, layers)


def _check_kinds(tower: str, teacher: TowerShape, student: TowerShape) -> None:
    if teacher.kind != student.kind:
        raise InheritanceError(
            f"a {student.kind} {tower} tower cannot inherit from a {teacher.kind} one; "
            f"choose a {teacher.kind} student"
        )
    if teacher.projects != student.projects:
        owner = "teacher" if teacher.projects else "student"
        raise InheritanceError(
            f"{tower} tower: only the {owner} projects its channels to the embedding; give the "
            "student the teacher's form"
        )


def _plan_tower(
    name: str, teacher: TowerShape, student: TowerShape, layers: LayerChoice
) -> TowerPlan:
    _check_heads(name, teacher, student)
    for dimension in ("width", "layers", "heads", "neurons", "pool_heads", "pool_neurons"):
        _check_size(
            f"{name} tower", dimension, getattr(teacher, dimension), getattr(student, dimension)
        )
    _check_positions(name, teacher, student)
    return TowerPlan(
        layers=choose_layers(teacher.layers, student.layers, layers),
        channels=_front(student.width),
        heads=(_front(student.heads),) * student.layers,
        neurons=(_front(student.neurons),) * student.layers,
        positions=_positions(teacher, student),
        teacher_heads=teacher.heads,
        head_width=teacher.head_width,
        kind=teacher.kind,
        prefixes=(teacher.prefix, student.prefix),
        pool_heads=_front(student.pool_heads),
        teacher_pool_heads=teacher.pool_heads,
        pool_head_width=teacher.pool_head_width,
        pool_neurons=_front(student.pool_neurons),
        bottleneck=_front(student.bottleneck),
    )


def _plan_resnet(teacher: TowerShape, student: TowerShape, layers: LayerChoice) -> ResNetPlan:
    _check_heads("image", teacher, student)
    _check_size("image tower", "width", teacher.width, student.width)
    for number, (teacher_blocks, student_blocks) in enumerate(
        zip(teacher.stages, student.stages, strict=True), 1
    ):
        _check_size(f"image tower, stage {number}", "blocks", teacher_blocks, student_blocks)
    _check_positions("image", teacher, student)
    width = student.width
    doublings = [2**stage for stage in range(len(student.stages))]
    return ResNetPlan(
        stages=tuple(
            choose_layers(teacher_blocks, student_blocks, layers)
            for teacher_blocks, student_blocks in zip(teacher.stages, student.stages, strict=True)
        ),
        stem=(_front(width // 2), _front(width // 2), _front(width)),
        inner=tuple(
            (BlockChannels(_front(width * factor), _front(width * factor)),) * blocks
            for factor, blocks in zip(doublings, student.stages, strict=True)
        ),
        outer=tuple(_front(4 * width * factor) for factor in doublings),
        heads=_front(student.heads),
        positions=_front(student.positions),
        head_width=teacher.head_width,
    )


def plan_staged(teacher: TowerShape, student: TowerShape, layers: LayerChoice) -> StagedPlan:
    """Plan a FastViT image tower: the first units of every axis, ``choose_layers`` per stage.

    Raises InheritanceError when the student is larger in any dimension.
    """
    _check_heads("image", teacher, student)
    if len(teacher.parts) != len(student.parts):
        raise InheritanceError(
            f"image tower: {len(student.parts):,} stages in the student, {len(teacher.parts):,} in "
            "the teacher; choose a student with as many"
        )
    _check_size("image tower", "width", teacher.width, student.width)
    parts: list[StageSelection] = []
    channels, growth = _front(student.width), (teacher.width, student.width)
    for number, (teacher_part, student_part) in enumerate(
        zip(teacher.parts, student.parts, strict=True), 1
    ):
        where = f"image tower, stage {number}"
        for dimension in ("blocks", "channels", "heads", "neurons", "squeezed"):
            _check_size(
                where, dimension, getattr(teacher_part, dimension), getattr(student_part, dimension)
            )
        channels = successors(
            channels, teacher_part.channels // growth[0], student_part.channels // growth[1], where
        )
        growth = teacher_part.channels, student_part.channels
        parts.append(
            StageSelection(
                blocks=choose_layers(teacher_part.blocks, student_part.blocks, layers),
                channels=channels,
                heads=(_front(student_part.heads),) * student_part.blocks,
                neurons=(_front(student_part.neurons),) * student_part.blocks,
                squeezed=_front(student_part.squeezed),
                teacher_heads=teacher_part.heads,
            )
        )
    last = teacher.final // growth[0], student.final // growth[1]
    return StagedPlan(
        parts=tuple(parts),
        final=successors(channels, *last, "image tower, last convolution"),
        final_squeezed=_front(student.final_squeezed),
        bottleneck=_front(student.bottleneck),
        head_width=teacher.head_width,
        kind=teacher.kind,
        prefixes=(teacher.prefix, student.prefix),
    )


def successors(channels: Indices, teacher: int, student: int, where: str) -> Indices:
    """Return the channels after a grouped convolution: the first successors of each channel.

    ``teacher`` and ``student`` are the numbers of successors of each channel before it. Raises
    InheritanceError if the student has more.
    """
    if student > teacher:
        raise InheritanceError(
            f"{where}: {student} channels for each of the stage before in the student, {teacher} "
            "in the teacher; a grouped convolution cannot be inherited wider"
        )
    return tuple(channel * teacher + i for channel in channels for i in range(student))


def _positions(teacher: TowerShape, student: TowerShape) -> Indices:
    """Return the first positions, and that of a class token; texts that fit are read as before."""
    if teacher.class_last:
        return (*_front(student.positions - 1), teacher.positions - 1)
    return _front(student.positions)


def _front(count: int) -> Indices:
    return tuple(range(count))


def _check_heads(name: str, teacher: TowerShape, student: TowerShape) -> None:
    for what, dimension in (("heads", "head_width"), ("pool heads", "pool_head_width")):
        teacher_width, student_width = getattr(teacher, dimension), getattr(student, dimension)
        if teacher_width != student_width:
            raise InheritanceError(
                f"{name} tower: {what} are {student_width} wide in the student, {teacher_width} "
                "in the teacher; whole heads cannot be cut"
            )


def _check_positions(name: str, teacher: TowerShape, student: TowerShape) -> None:
    if name == "image" and teacher.positions != student.positions:
        raise InheritanceError(
            f"image tower: {student.positions} positions in the student, {teacher.positions} in "
            "the teacher; interpolate the positional embedding first"
        )
    _check_size(f"{name} tower", "context length", teacher.positions, student.positions)


def _check_size(tower: str, dimension: str, teacher: int, student: int) -> None:
    if student > teacher:
        raise InheritanceError(
            f"{tower}: {dimension} {student} is more than the teacher's {teacher}; "
            "shrink the student"
        )
