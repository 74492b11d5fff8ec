"""Kinds of towers: which unit each axis of each tensor counts, such as channels or heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from tinyclip_edge.errors import InheritanceError

TowerName: TypeAlias = Literal["image", "text"]
# Of a tower: channels, positions, embed, tokens, bottleneck (between two layers of a projection),
# pooled (channels after pooling), and those of its attention pool; of a layer: attended (heads
# times head width), qkv (three times that), heads and neurons. Of a tower in stages: stem (channels
# of its first stage), final (of its last convolution) and final_squeezed; channels and squeezed
# (inside squeeze-and-excite) are those of a stage; reduced and convolved (outputs of the first and
# the second convolution) are those of a ResNet's block. None: an axis that is never sliced.
Axes: TypeAlias = "tuple[str | None, ...]"
BOTH: tuple[TowerName, ...] = ("image", "text")
# Axes that stack several copies of another one, and how many.
STACKED = {
    "qkv": ("attended", 3),
    "pool_kv": ("pool_attended", 2),
    "pool_qkv": ("pool_attended", 3),
}
# Scalars that belong to no tower.
SHARED = ("logit_scale", "logit_bias")
IMAGE_PREFIX = "visual."
TEXT_PREFIXES = ("text.", "")  # open_clip.CustomTextCLIP has its text tower in a module
VECTOR: Axes = ("channels",)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of a BatchNorm


class Place(NamedTuple):
    """Position of a tensor in a CLIP; ``name`` is its key without the prefix of its layer."""

    tower: TowerName
    blocks: str  # prefix of the tower's layers
    layer: int | None  # None outside the layers
    name: str
    axes: Axes
    writes: bool  # to the residual stream, so that a mask of channels is folded into it
    part: str  # part of a layer that is lost with all of certain units: see prune.LOST_WITH
    stage: int | None = None  # of a tower in stages, which number their layers from 0
    gain: bool = False  # of a norm or a layer scale: one factor or offset per unit


class ProbePoints(NamedTuple):
    """Layers of a block at which importance is measured, by name."""

    attended: str  # its input is the heads' outputs
    neurons: str  # its input is the neurons after the activation
    residuals: tuple[str, ...]  # their outputs are added to the residual stream, or are it
    pooled: str = ""  # of the tower: a layer after pooling; its outputs count as channels


@dataclass(frozen=True, slots=True)
class TowerKind:
    """Axes of the tensors of one kind of tower, keys without the tower's prefix."""

    name: str
    tower: TowerName
    blocks: str  # prefix of its layers
    outer: Mapping[str, Axes]
    block: Mapping[str, Axes]
    marks: tuple[str, ...]  # keys by which it is recognised
    required: tuple[str, ...] = ()
    patch: str = ""  # key of the patch embedding
    # Names of tensors that write to the residual stream.
    writes: frozenset[str] = frozenset()
    # Name prefixes of tensors that a layer loses with its heads, neurons or convolved channels.
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    probe: ProbePoints | None = None  # None: importance cannot be measured
    # Name prefixes of norms and layer scales; if empty, weights cannot be mapped.
    gains: tuple[str, ...] = ()
    shared: str = ""  # name of a tensor that layer 0 of an unpruned tower shares with all layers
    whole: tuple[str, ...] = ()  # name prefixes of tensors that are never sliced
    stages: str = ""  # prefix of the stages of a tower that has them; ``blocks`` is within one
    first_stage: int = 0  # number of the first one
    stage: Mapping[str, Axes] = field(default_factory=dict)  # of a stage, outside its layers
    fused: str = ""  # key that marks its form for inference, which cannot be inherited

    @property
    def biased(self) -> bool:
        """Whether attention and feed-forward layers have biases."""
        return any(len(axes) == 1 and axes != VECTOR for axes in self.block.values())

    def locate(self, key: str, prefix: str) -> Place | None:
        """Return the position of a tensor, None for an unknown key."""
        name, blocks = key.removeprefix(prefix), prefix + self.blocks
        if name in self.outer or name.startswith(self.whole):
            axes, writes = self.outer.get(name, ()), name in self.writes
            gain = name.startswith(self.gains)
            return Place(self.tower, blocks, None, key, axes, writes, "", gain=gain)
        stage = None
        if self.stages:
            number, _, rest = name.removeprefix(self.stages).partition(".")
            if not name.startswith(self.stages) or not number.isdecimal():
                return None
            stage, name = int(number) - self.first_stage, rest
            if name in self.stage:
                return Place(self.tower, blocks, None, name, self.stage[name], False, "", stage)
        number, _, rest = name.removeprefix(self.blocks).partition(".")
        if name.startswith(self.blocks) and number.isdecimal() and rest in self.block:
            part = next((p for p, names in self.parts.items() if rest.startswith(names)), "")
            axes, writes = self.block[rest], rest in self.writes
            gain = rest.startswith(self.gains)
            return Place(self.tower, blocks, int(number), rest, axes, writes, part, stage, gain)
        return None

    def layer_sizes(self, state: Mapping[str, Tensor], prefix: str, layer: int) -> dict[str, int]:
        """Return the attended width and the neurons of a layer, 0 where masks removed all."""
        sizes = dict.fromkeys(("attended", "neurons"), 0)
        for name, axes in self.block.items():
            tensor = state.get(f"{prefix}{self.blocks}{layer}.{name}")
            if tensor is None:
                continue
            for axis, size in zip(axes, tensor.shape, strict=False):
                whole, copies = STACKED.get(axis or "", (axis, 1))
                if whole in sizes:
                    sizes[whole] = size // copies
        return sizes

    def sizes(self, state: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
        """Return the size of each axis, read from the tensors outside layers and in layer 0.

        Raises InheritanceError where two tensors disagree.
        """
        tables = ((prefix, self.outer), (f"{prefix}{self.blocks}0.", self.block))
        return self._sizes(state, tables[:1] if self.stages else tables)

    def stage_sizes(self, state: Mapping[str, Tensor], prefix: str, stage: int) -> dict[str, int]:
        """Return the size of each axis of a stage, read like ``sizes``."""
        start = f"{prefix}{self.stages}{stage}."
        return self._sizes(state, ((start, self.stage), (f"{start}{self.blocks}0.", self.block)))

    def _sizes(
        self, state: Mapping[str, Tensor], tables: Iterable[tuple[str, Mapping[str, Axes]]]
    ) -> dict[str, int]:
        sizes: dict[str, tuple[int, str]] = {}
        for key, axis, size in _axes(state, tables):
            before, first = sizes.setdefault(axis, (size, key))
            if before != size:
                raise InheritanceError(
                    f"the {self.tower} tower contradicts itself: {axis} of '{key}' is {size}, "
                    f"of '{first}' {before}"
                )
        return {axis: size for axis, (size, _) in sizes.items()}


def _axes(
    state: Mapping[str, Tensor], tables: Iterable[tuple[str, Mapping[str, Axes]]]
) -> Iterator[tuple[str, str, int]]:
    """Yield key, axis and size of each axis of the tensors under each prefix of keys."""
    for start, table in tables:
        for name, axes in table.items():
            tensor = state.get(start + name)
            if tensor is None:
                continue
            for axis, size in zip(axes, tensor.shape, strict=False):
                if axis is not None:
                    whole, copies = STACKED.get(axis, (axis, 1))
                    yield start + name, whole, size // copies


def linear_axes(name: str, outputs: str, inputs: str) -> dict[str, Axes]:
    """Return the axes of a linear layer's weight and bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm_axes(*names: str, axis: str = "channels") -> dict[str, Axes]:
    """Return the axes of norms' weights and biases."""
    return {f"{name}.{part}": (axis,) for name in names for part in ("weight", "bias")}


def batch_norm_axes(name: str, axis: str) -> dict[str, Axes]:
    """Return the axes of a BatchNorm with its statistics."""
    mean, variance, batches = (f"{name}.{part}" for part in STATISTICS)
    return norm_axes(name, axis=axis) | {mean: (axis,), variance: (axis,), batches: ()}


def split_key(key: str) -> tuple[TowerName, str]:
    """Return the tower of a tensor and the prefix of that tower's keys."""
    if key.startswith(IMAGE_PREFIX):
        return "image", IMAGE_PREFIX
    return "text", next(prefix for prefix in TEXT_PREFIXES if key.startswith(prefix))
