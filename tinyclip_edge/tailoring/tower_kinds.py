"""The kinds of image towers that ``tailor`` shrinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance import ClipShape
from tinyclip_edge.inheritance.fastvit_kind import FASTVIT
from tinyclip_edge.inheritance.open_clip_kinds import POOLED_VIT, RESNET, VIT
from tinyclip_edge.inheritance.timm_kinds import TIMM_STEM_VIT, TIMM_VIT, VITAMIN
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.models.head_widths import head_widths
from tinyclip_edge.tailoring.fastvit_tower import TeacherFastVit
from tinyclip_edge.tailoring.resnet_tower import TeacherResNet
from tinyclip_edge.tailoring.shapes import TeacherTower
from tinyclip_edge.tailoring.transformer_tower import TeacherTransformer

Kind = type[TeacherTransformer] | type[TeacherResNet] | type[TeacherFastVit]
KINDS: Mapping[str, Kind] = {
    RESNET.name: TeacherResNet,
    FASTVIT.name: TeacherFastVit,
    **{
        kind.name: TeacherTransformer
        for kind in (VIT, POOLED_VIT, TIMM_VIT, TIMM_STEM_VIT, VITAMIN)
    },
}


def teacher_tower(teacher: LoadedClip, *, larger_patches: bool = False) -> TeacherTower:
    """Return the teacher's tower, from which the shapes of students derive.

    ``larger_patches`` are tried too, if the tower has patches. Raises ModelError for a tower from
    which students cannot inherit.
    """
    try:
        shape = ClipShape.of(teacher.model.state_dict(), head_widths(teacher), towers=("image",))
    except InheritanceError as error:
        raise ModelError(f"teacher {teacher.name}: {error}") from None
    tower = KINDS[shape.image.kind].of(teacher, shape)
    return tower if larger_patches else replace(tower, larger_patches=())
