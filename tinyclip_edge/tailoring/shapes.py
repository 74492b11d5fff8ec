"""Shapes to which a teacher's image tower can shrink: depth, width, neurons, image size, patch.

Each kind of tower has a TeacherTower, which defines what can be cut and what a shape contains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)  # of the teacher's depth and width
NEURON_SHARES = (1.0, 0.5, 0.25)  # of its neurons per channel
SIZE_SHARES = (1.0, 0.75, 0.5)  # of its image size


@dataclass(frozen=True, slots=True, order=True)
class ImageShape:
    """Sizes of an image tower of one kind."""

    layers: tuple[int, ...]  # blocks of each stage; a transformer has one stage
    width: int  # channels of the first stage
    mlp_ratio: float  # neurons of a feed-forward block over its width; 0: there are none
    image_size: int  # pixels
    patch: int = 0  # pixels; 0: the teacher's

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ImageShape:
        """Return the shape from JSON values."""
        return cls(**{**plain, "layers": tuple(plain["layers"])})

    @property
    def neurons(self) -> int:
        """Neurons of each feed-forward block, in the first stage."""
        return int(self.width * self.mlp_ratio)

    @property
    def name(self) -> str:
        """A name for files, such as ``L3-W192-N384-S64`` or ``L3.4.6.3-W64-S224``."""
        neurons = f"-N{self.neurons}" if self.mlp_ratio else ""
        patch = f"-P{self.patch}" if self.patch else ""
        layers = ".".join(map(str, self.layers))
        return f"L{layers}-W{self.width}{neurons}-S{self.image_size}{patch}"

    def __str__(self) -> str:
        neurons = f", {self.neurons} neurons" if self.mlp_ratio else ""
        patch = f" in patches of {self.patch}" if self.patch else ""
        layers = "+".join(map(str, self.layers))
        return f"{layers} layers, width {self.width}{neurons}, {self.image_size} pixels{patch}"

    def covers(self, other: ImageShape) -> bool:
        """Whether this shape is at least as large as another one in every respect."""
        return (
            all(ours >= theirs for ours, theirs in zip(self.layers, other.layers, strict=True))
            and self.width >= other.width
            and self.neurons >= other.neurons
            and self.image_size >= other.image_size
            and self.patch <= other.patch
        )


class Products(NamedTuple):
    """A tower's weights that are multiplied with each of ``positions`` positions."""

    weights: int
    positions: int
    attended: int = 0  # multiply-accumulates without weights


@dataclass(frozen=True, slots=True)
class TeacherTower(ABC):
    """A teacher's image tower, from which the shapes of students derive."""

    shape: ImageShape
    embed_dim: int
    width_unit: int  # channels that are cut together; 0: the width stays
    stride: int  # pixels per position along a side of the picture
    larger_patches: tuple[int, ...] = ()  # sizes in pixels that are tried beside the teacher's

    @abstractmethod
    def settings(self, shape: ImageShape) -> dict[str, Any]:
        """Return a student's vision_cfg: what differs from the teacher's."""

    @abstractmethod
    def products(self, shape: ImageShape) -> Iterator[Products]:
        """Yield the matrices of a shape, without those that are the same in all shapes."""

    def shapes(self) -> list[ImageShape]:
        """Return all shapes in descending order, starting with those of the teacher's sizes.

        Widths are whole units, image sizes whole strides, and all stages lose the same share of
        their blocks. Depth is cut, too, because TinyCLIP found layers the cheapest to lose. Each
        axis has at most five values.
        """
        whole = self.shape
        depths = {tuple(max(1, int(b * share)) for b in whole.layers) for share in SHARES}
        unit = self.width_unit
        widths = multiples(whole.width, SHARES, unit) if unit else [whole.width]
        sizes = multiples(whole.image_size, SIZE_SHARES, self.stride)
        shapes = {
            ImageShape(layers, width, whole.mlp_ratio * neurons, image_size, patch)
            for layers, width, neurons, image_size in product(depths, widths, NEURON_SHARES, sizes)
            for patch in (0, *self.larger_patches)
            if patch == 0 or image_size % patch == 0
        }
        return sorted(shapes, reverse=True)

    def smallest(self) -> list[ImageShape]:
        """Return the smallest shape, once for each of its patches."""
        last = self.shapes()[-1]
        return [shape for shape in self.shapes() if last.covers(shape)]

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of weights of a shape: matrices, positions, projection."""
        return sum(each.weights for each in self.products(shape))

    def macs(self, shape: ImageShape) -> int:
        """Return the multiply-accumulates of one picture, with attention's products."""
        return sum(each.weights * each.positions + each.attended for each in self.products(shape))

    def changed(self, shape: ImageShape, **values: object) -> dict[str, Any]:
        """Return the ``values`` of a shape, by name, that differ from the teacher's."""
        whole = self.shape
        return {key: v for key, v in values.items() if getattr(shape, key) != getattr(whole, key)}


def maximal(shapes: Iterable[ImageShape]) -> list[ImageShape]:
    """Return the shapes that no other one covers, in descending order."""
    ordered = sorted(set(shapes), reverse=True)
    return [
        shape
        for shape in ordered
        if not any(other != shape and other.covers(shape) for other in ordered)
    ]


def spread(shapes: Sequence[ImageShape], count: int) -> list[ImageShape]:
    """Return at most ``count`` shapes, evenly spaced, including the first and the last."""
    if len(shapes) <= count:
        return list(shapes)
    if count == 1:
        return [shapes[0]]
    return [shapes[i * (len(shapes) - 1) // (count - 1)] for i in range(count)]


def multiples(whole: int, shares: Sequence[float], unit: int) -> list[int]:
    """Return shares of a size, rounded down to whole units, but at least one unit."""
    return sorted({max(1, int(whole * share) // unit) * unit for share in shares}, reverse=True)
