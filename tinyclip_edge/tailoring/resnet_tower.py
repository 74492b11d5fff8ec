"""Shapes of open_clip's ResNet: four stages of bottlenecks, each twice as wide as the last."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinyclip_edge.inheritance import ClipShape
from tinyclip_edge.inheritance.shape import RESNET_GROWTH
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.models.positions import RESNET_STRIDE
from tinyclip_edge.tailoring.shapes import ImageShape, Products, TeacherTower


@dataclass(frozen=True, slots=True)
class TeacherResNet(TeacherTower):
    """A ResNet with an attention pool."""

    @classmethod
    def of(cls, teacher: LoadedClip, shape: ClipShape) -> TeacherResNet:
        """Return the tower of a teacher; widths are even and whole heads of the pool."""
        image = shape.image
        of_heads = image.head_width // math.gcd(image.head_width, RESNET_GROWTH)
        return cls(
            ImageShape(image.stages, image.width, 0, teacher.image_size),
            teacher.embedding_dim,
            math.lcm(2, of_heads),
            RESNET_STRIDE,
        )

    def settings(self, shape: ImageShape) -> dict[str, Any]:
        """Return a student's vision_cfg: what differs from the teacher's."""
        return self.changed(
            shape, layers=list(shape.layers), width=shape.width, image_size=shape.image_size
        )

    def products(self, shape: ImageShape) -> Iterator[Products]:
        """Yield stem, stages and attention pool."""
        width, side = shape.width, shape.image_size // 2
        half = width // 2
        yield Products(9 * (3 * half + half**2 + half * width), side**2)
        side, incoming, inner = side // 2, width, width
        for stage, blocks in enumerate(shape.layers):
            outer, before = 4 * inner, side**2
            side = side // 2 if stage else side
            # The first block pools after its second convolution, before the third.
            yield Products(incoming * inner + 9 * inner**2, before)
            yield Products(outer * inner + incoming * outer, side**2)
            yield Products((blocks - 1) * (2 * outer * inner + 9 * inner**2), side**2)
            incoming, inner = outer, 2 * inner
        positions = side**2 + 1
        yield Products(positions * incoming, 0)
        yield Products(2 * incoming**2, positions)  # keys and values for one query
        yield Products(incoming**2 + incoming * self.embed_dim, 1, 2 * positions * incoming)
