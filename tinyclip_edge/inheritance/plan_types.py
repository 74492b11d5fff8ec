"""What a student inherits: teacher indices of layers, channels, heads and neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from tinyclip_edge.inheritance.open_clip_kinds import VIT

Indices: TypeAlias = "tuple[int, ...]"
LayerChoice: TypeAlias = Literal["published", "evenly"]
LAYER_CHOICES = ("published", "evenly")


@dataclass(frozen=True, slots=True)
class TowerPlan:
    """Teacher indices of the units of one student tower, in student order."""

    layers: Indices
    channels: Indices
    heads: tuple[Indices, ...]  # per student layer
    neurons: tuple[Indices, ...]  # per student layer
    positions: Indices
    teacher_heads: int
    head_width: int
    kind: str = VIT.name
    prefixes: tuple[str, str] = ("", "")  # of the teacher's keys and of the student's
    pool_heads: Indices = ()  # of an attention pool of timm
    teacher_pool_heads: int = 0
    pool_head_width: int = 0
    pool_neurons: Indices = ()
    bottleneck: Indices = ()  # between the two layers of a projection


class BlockChannels(NamedTuple):
    """Teacher indices of the channels inside a block of a ResNet."""

    reduced: Indices  # outputs of its first convolution
    convolved: Indices  # of the second


@dataclass(frozen=True, slots=True)
class ResNetPlan:
    """Teacher indices of the units of a ResNet image tower, in student order."""

    stages: tuple[Indices, ...]  # inherited blocks, per stage
    stem: tuple[Indices, ...]  # output channels of each of the stem's three convolutions
    inner: tuple[tuple[BlockChannels, ...], ...]  # per stage and student block
    outer: tuple[Indices, ...]  # channels of the residual stream, per stage
    heads: Indices  # of the attention pool
    positions: Indices
    head_width: int

    @property
    def layers(self) -> tuple[Indices, ...]:
        """Inherited teacher blocks, per stage."""
        return self.stages


@dataclass(frozen=True, slots=True)
class StageSelection:
    """Teacher indices of the units of one stage, in student order."""

    blocks: Indices
    channels: Indices
    heads: tuple[Indices, ...]  # per student block; none in a stage of convolutions
    neurons: tuple[Indices, ...]  # per student block
    squeezed: Indices
    teacher_heads: int


@dataclass(frozen=True, slots=True)
class StagedPlan:
    """Teacher indices of the units of a FastViT image tower, in student order."""

    parts: tuple[StageSelection, ...]
    final: Indices  # channels of the last convolution
    final_squeezed: Indices
    bottleneck: Indices
    head_width: int
    kind: str
    prefixes: tuple[str, str]  # of the teacher's keys and of the student's

    @property
    def layers(self) -> tuple[Indices, ...]:
        """Inherited teacher blocks, per stage."""
        return tuple(part.blocks for part in self.parts)


@dataclass(frozen=True, slots=True)
class InheritancePlan:
    """Teacher indices of everything a student inherits; None for a tower that stays fresh."""

    image: TowerPlan | ResNetPlan | StagedPlan | None
    text: TowerPlan | None
    embed: Indices
    tokens: Indices  # empty: the student has another vocabulary, and its table stays fresh
    method: str
    notes: tuple[str, ...] = ()  # about the choice
