"""Shapes of vision transformers, both open_clip's and timm's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinyclip_edge.inheritance import ClipShape
from tinyclip_edge.inheritance.open_clip_kinds import POOLED_VIT
from tinyclip_edge.inheritance.timm_kinds import TIMM_STEM_VIT
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.models.build import mlp_ratio
from tinyclip_edge.tailoring.shapes import ImageShape, Products, TeacherTower

PATCH_SHARES = (1.5, 2.0)  # of the teacher's patch


@dataclass(frozen=True, slots=True)
class TeacherTransformer(TeacherTower):
    """A vision transformer, whose stride is its patch size."""

    @classmethod
    def of(cls, teacher: LoadedClip, shape: ClipShape) -> TeacherTransformer:
        """Return the tower of a teacher; a convolutional stem, and with it the width, is kept.

        Widths are whole heads of the blocks and of an attention pool.
        """
        image = shape.image
        heads, patch = (image.head_width, *_pool_widths(shape)), shape.patch
        fixed = not image.projects or image.kind == TIMM_STEM_VIT.name
        size = teacher.image_size
        return cls(
            ImageShape((image.layers,), image.width, mlp_ratio(image.width, image.neurons), size),
            teacher.embedding_dim,
            0 if fixed else math.lcm(*heads),
            patch or size // math.isqrt(image.positions),
            tuple(int(patch * share) for share in PATCH_SHARES if patch and patch * share % 1 == 0),
        )

    def settings(self, shape: ImageShape) -> dict[str, Any]:
        """Return a student's vision_cfg: what differs from the teacher's."""
        patch = {"patch_size": shape.patch} if shape.patch else {}
        return patch | self.changed(
            shape,
            layers=shape.layers[0],
            width=shape.width,
            mlp_ratio=shape.mlp_ratio,
            image_size=shape.image_size,
        )

    def products(self, shape: ImageShape) -> Iterator[Products]:
        """Yield patches, positions, blocks and projection."""
        patch, width = shape.patch or self.stride, shape.width
        patches = (shape.image_size // patch) ** 2
        positions = patches + 1
        yield Products(3 * patch**2 * width, patches)
        yield Products(positions * width, 0)
        block = 4 * width**2 + 2 * width * shape.neurons
        attended = 2 * positions**2 * width
        yield Products(shape.layers[0] * block, positions, shape.layers[0] * attended)
        yield Products(width * self.embed_dim, 1)


def _pool_widths(shape: ClipShape) -> tuple[int, ...]:
    """Return the width of the pool's heads if the pool is as wide as the tower; else nothing."""
    pooled = shape.image.pool_head_width > 0 and shape.image.kind != POOLED_VIT.name
    return (shape.image.pool_head_width,) if pooled else ()
