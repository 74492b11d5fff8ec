"""Shapes of FastViT (MobileCLIP's MCi): stages of convolutions, attention in the last ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tinyclip_edge.inheritance import ClipShape
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.models.sized_fastvit import FastVitSizes
from tinyclip_edge.tailoring.shapes import ImageShape, Products, TeacherTower

STEM_STRIDE = 4
SMALL, LARGE = 3**2, 7**2  # weights per channel of the depthwise convolutions


@dataclass(frozen=True, slots=True)
class TeacherFastVit(TeacherTower):
    """A FastViT whose stages keep the ratios of their widths, and of their neurons."""

    widths: tuple[int, ...] = ()  # of the teacher's stages
    ratios: tuple[float, ...] = ()  # neurons per channel of these stages
    attends: tuple[bool, ...] = ()
    final_ratio: float = 1  # channels of the last convolution per channel of the last stage
    squeezed: float = 0  # channels inside its squeeze-and-excite per channel of its own

    @classmethod
    def of(cls, teacher: LoadedClip, shape: ClipShape) -> TeacherFastVit:
        """Return the tower of a teacher; widths of stages with attention are whole heads."""
        trunk: Any = teacher.model.get_submodule("visual.trunk")
        sizes, image = FastVitSizes.of(trunk), shape.image
        first, units = sizes.width[0], [1]
        for width, attends in zip(sizes.width, sizes.attends, strict=True):
            ratio = Fraction(width, first)
            heads = ratio / sizes.head_width if attends else ratio  # per channel of the first stage
            units.append(heads.denominator)
        return cls(
            ImageShape(tuple(sizes.layers), first, sizes.mlp_ratio[0], teacher.image_size),
            teacher.embedding_dim,
            math.lcm(*units) if image.projects else 0,
            STEM_STRIDE * 2 ** (len(sizes.width) - 1),
            widths=tuple(sizes.width),
            ratios=tuple(sizes.mlp_ratio),
            attends=tuple(sizes.attends),
            final_ratio=sizes.final_ratio,
            squeezed=image.final_squeezed / image.final,
        )

    def settings(self, shape: ImageShape) -> dict[str, Any]:
        """Return a student's vision_cfg: what differs from the teacher's, stage by stage."""
        return self.changed(
            shape,
            layers=list(shape.layers),
            width=self._widths(shape),
            mlp_ratio=self._ratios(shape),
            image_size=shape.image_size,
        )

    def products(self, shape: ImageShape) -> Iterator[Products]:
        """Yield stem, stages, last convolution and projection, with branches fused.

        The few weights of a stage's squeeze-and-excite are left out.
        """
        side, first = shape.image_size // STEM_STRIDE, shape.width
        yield Products(3 * SMALL * first, (2 * side) ** 2)
        yield Products(SMALL * first + first**2, side**2)
        stages = zip(
            shape.layers, self._widths(shape), self._ratios(shape), self.attends, strict=True
        )
        for stage, (blocks, width, ratio, attends) in enumerate(stages):
            side = side // 2 if stage else side
            if stage:
                yield Products(LARGE * width + width**2, side**2)
            if attends:
                yield Products(LARGE * width, side**2)  # position encoding, a convolution
            mixer = 4 * width**2 if attends else SMALL * width
            block = mixer + LARGE * width + 2 * width * int(width * ratio)
            attended = 2 * side**4 * width if attends else 0
            yield Products(blocks * block, side**2, blocks * attended)
        final = int(self._widths(shape)[-1] * self.final_ratio)
        yield Products(SMALL * final, side**2)
        yield Products(2 * final * int(final * self.squeezed) + final * self.embed_dim, 1)

    def _widths(self, shape: ImageShape) -> list[int]:
        return [shape.width * width // self.widths[0] for width in self.widths]

    def _ratios(self, shape: ImageShape) -> list[float]:
        return [ratio * shape.mlp_ratio / self.shape.mlp_ratio for ratio in self.ratios]
