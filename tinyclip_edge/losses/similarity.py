"""Logits of pairs, from one or several teachers, in the precision of losses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tinyclip_edge.losses.objective import TeacherPart
from tinyclip_edge.losses.precision import at_least_float32


def pair_logits(image: Tensor, text: Tensor, scale: float | Tensor) -> Tensor:
    """Return ``scale`` times the dot products of rows ``[R, D]`` and ``[B, D]``: ``[R, B]``."""
    if isinstance(scale, Tensor):
        scale = at_least_float32(scale)
    return scale * (at_least_float32(image) @ at_least_float32(text).T)


def part_logits(
    image: Tensor, text: Tensor, scale: float | Tensor, parts: Sequence[TeacherPart]
) -> list[Tensor]:
    """Return the logits ``[R, B]`` of each teacher, from the concatenated features of all."""
    if not parts:
        return [pair_logits(image, text, scale)]
    return [
        pair_logits(image[:, part.columns], text[:, part.columns], scale / part.weight)
        for part in parts
    ]
