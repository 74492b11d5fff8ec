"""Shapes of image towers that a teacher's can shrink to: depth, width, neurons, image size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)  # of the teacher's depth and width
NEURON_SHARES = (1.0, 0.5, 0.25)  # of its neurons per channel
SIZE_SHARES = (1.0, 0.75, 0.5)  # of its image size


@dataclass(frozen=True, slots=True, order=True)
class ImageShape:
    """Sizes of an image tower of one kind."""

    layers: int
    width: int
    mlp_ratio: float  # neurons of a feed-forward block, over the width
    image_size: int  # pixels

    @property
    def neurons(self) -> int:
        """Neurons of each feed-forward block."""
        return int(self.width * self.mlp_ratio)

    @property
    def name(self) -> str:
        """A name for files, such as ``L3-W192-N384-S64``."""
        return f"L{self.layers}-W{self.width}-N{self.neurons}-S{self.image_size}"

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, width {self.width}, {self.neurons} neurons, "
            f"{self.image_size} pixels"
        )

    def covers(self, other: ImageShape) -> bool:
        """Whether this shape is at least as large as another one in everything."""
        return (
            self.layers >= other.layers
            and self.width >= other.width
            and self.neurons >= other.neurons
            and self.image_size >= other.image_size
        )


@dataclass(frozen=True, slots=True)
class TeacherTower:
    """What the shapes are shares of."""

    shape: ImageShape
    head_width: int
    patch: int  # pixels of the picture's side to a position
    embed_dim: int
    channels: int | None = None  # a width that must not change: a tower without projection

    def shapes(self) -> list[ImageShape]:
        """Return all shapes, the teacher's own first, then in descending order.

        Widths are whole heads, image sizes whole patches; TinyCLIP found that layers are the
        cheapest to lose, so no axis is left out, and each has at most five values.
        """
        whole = self.shape
        widths = (
            [self.channels]
            if self.channels is not None
            else _multiples(whole.width, SHARES, self.head_width)
        )
        shapes = {
            ImageShape(layers, width, whole.mlp_ratio * neurons, image_size)
            for layers, width, neurons, image_size in product(
                _multiples(whole.layers, SHARES, 1),
                widths,
                NEURON_SHARES,
                _multiples(whole.image_size, SIZE_SHARES, self.patch),
            )
        }
        return sorted(shapes, reverse=True)

    def settings(self, shape: ImageShape) -> dict[str, Any]:
        """Return vision_cfg of a student: what differs from the teacher's."""
        whole = self.shape
        pairs = {
            "layers": (shape.layers, whole.layers),
            "width": (shape.width, whole.width),
            "mlp_ratio": (shape.mlp_ratio, whole.mlp_ratio),
            "image_size": (shape.image_size, whole.image_size),
        }
        return {key: value for key, (value, teacher) in pairs.items() if value != teacher}

    def parameters(self, shape: ImageShape) -> int:
        """Return the weights of a transformer of a shape: matrices, positions, projection."""
        blocks = shape.layers * (4 * shape.width**2 + 2 * shape.width * shape.neurons)
        around = 3 * self.patch**2 + self._positions(shape) + self.embed_dim
        return blocks + shape.width * around

    def macs(self, shape: ImageShape) -> int:
        """Return the multiply-accumulates of one picture, with attention's products."""
        positions = self._positions(shape)
        block = 4 * shape.width**2 + 2 * shape.width * shape.neurons + 2 * positions * shape.width
        stem = (positions - 1) * 3 * self.patch**2 * shape.width
        return shape.layers * positions * block + stem + shape.width * self.embed_dim

    def _positions(self, shape: ImageShape) -> int:
        return (shape.image_size // self.patch) ** 2 + 1


def maximal(shapes: Iterable[ImageShape]) -> list[ImageShape]:
    """Return the shapes that no other one covers, in descending order."""
    ordered = sorted(set(shapes), reverse=True)
    return [
        shape
        for shape in ordered
        if not any(other != shape and other.covers(shape) for other in ordered)
    ]


def spread(shapes: Sequence[ImageShape], count: int) -> list[ImageShape]:
    """Return at most ``count`` shapes, evenly spaced, the first and the last among them."""
    if len(shapes) <= count:
        return list(shapes)
    if count == 1:
        return [shapes[0]]
    return [shapes[i * (len(shapes) - 1) // (count - 1)] for i in range(count)]


def _multiples(whole: int, shares: Sequence[float], unit: int) -> list[int]:
    """Return shares of a size, rounded down to whole units, of which there is one at least."""
    return sorted({max(1, int(whole * share) // unit) * unit for share in shares}, reverse=True)
