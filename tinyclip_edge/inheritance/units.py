"""Count the units that masks can remove: hidden channels, heads and neurons, layer by layer.

The channels inside a ResNet's blocks count as neurons, in two layers per block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, TypeVar

from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.fastvit_kind import FASTVIT
from tinyclip_edge.inheritance.open_clip_kinds import POOLED_VIT, RESNET, TEXT, VIT
from tinyclip_edge.inheritance.shape import HeadWidths, count_blocks
from tinyclip_edge.inheritance.tower_kind import (
    IMAGE_PREFIX,
    STATISTICS,
    Place,
    TowerKind,
    TowerName,
)
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS, recognise

UNMASKED = "inherit it with inherit.method=uniform"
OPEN_CLIP = ("", VIT.name, POOLED_VIT.name, TEXT.name)  # kinds of open_clip's own transformers
PRUNED = frozenset(("channels", "pooled", "heads", "attended", "qkv", "neurons"))  # axes
KERNEL = 9  # weights of a ResNet's 3x3 convolution for a pair of channels
SCALES = 2  # weight and bias of a norm for a channel
# For towers in stages: tensors whose outputs are a block's neurons, and one of its channels.
_STAGED = {
    FASTVIT.name: (("mlp.fc1.weight",), "mlp.fc2.bias"),
    RESNET.name: (("conv1.weight", "conv2.weight"), "bn3.weight"),
}

Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True, slots=True)
class TowerUnits:
    """Units of one transformer tower; heads and neurons may differ from layer to layer."""

    width: int  # hidden channels, shared by all layers
    head_width: int
    heads: tuple[int, ...]  # per layer; 0 where only the bias of out_proj is left
    neurons: tuple[int, ...]  # per layer; in a ResNet two per block, outputs of two convolutions
    positions: int  # image: patches + 1; text: context length, 0 without a table of them
    kind: str = ""  # a key of TOWER_KINDS; empty: open_clip's own transformer
    matrices: int = 2  # of a feed-forward block: 3 with a gate
    pooled: int = 0  # channels after an attention pool, which have no masks; 0 without one
    stages: tuple[
        int, ...
    ] = ()  # blocks of each stage, in a tower in which only neurons have masks
    widths: tuple[int, ...] = ()  # channels of each of these stages
    # Parameters without masks: in a tower in stages, all but its neurons'; in one that begins with
    # convolutions or ends with open_clip's attention pool, those of that part.
    unmasked: int = 0

    def table(self) -> dict[str, Any]:
        """Return the units as plain data, without the values that are usual for open_clip."""
        usual = {"kind": "", "matrices": 2, "pooled": 0, "stages": (), "widths": (), "unmasked": 0}
        return {k: v for k, v in asdict(self).items() if usual.get(k) != v}

    @property
    def prunable(self) -> int:
        """Parameters of attention and feed-forward blocks, which the sparsity counts.

        In a tower in stages, only those of its neurons.
        """
        if self.stages:
            return self.staged_parameters(self.neurons)
        attended, bias = sum(self.heads) * self.head_width, int(self.biased)
        attention = attended * (4 * self.width + 3 * bias) + len(self.heads) * self.width * bias
        neuron = self.matrices * self.width + (self.matrices - 1) * bias
        return attention + sum(self.neurons) * neuron + len(self.neurons) * self.width * bias

    @property
    def biased(self) -> bool:
        """Whether attention and feed-forward layers have biases."""
        return not self.kind or TOWER_KINDS[self.kind].biased

    def staged_parameters(self, counts: Sequence[Count]) -> Count:
        """Return the parameters that these neurons, one count per layer, have in a staged tower."""
        if self.kind != RESNET.name:
            widths = (width for _, width in self._block_widths())
            parts = [count * (2 * width + 1) for count, width in zip(counts, widths, strict=True)]
        else:
            pairs = zip(counts[::2], counts[1::2], strict=True)
            parts = [
                reduced * (inputs + SCALES)
                + reduced * convolved * KERNEL
                + convolved * (outputs + SCALES)
                for (inputs, outputs), (reduced, convolved) in zip(
                    self._block_widths(), pairs, strict=True
                )
            ]
        return sum(parts[1:], start=parts[0])

    def _block_widths(self) -> Iterator[tuple[int, int]]:
        """Yield the channels before and after each block of a tower in stages."""
        before = self.width
        for blocks, width in zip(self.stages, self.widths, strict=True):
            for _ in range(blocks):
                yield before, width
                before = width

    def remaining(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Return the neurons of a pruned tower, of which masks leave ``counts`` on.

        If only the second convolution of a ResNet's block is left, one channel with factor 0
        remains before it: the biases of its norm still count.
        """
        if self.kind != RESNET.name:
            return tuple(counts)
        pairs = zip(counts[::2], counts[1::2], strict=True)
        return tuple(
            count
            for reduced, convolved in pairs
            for count in ((max(reduced, 1), convolved) if convolved else (0, 0))
        )

    @property
    def of_open_clip(self) -> bool:
        """Whether this is a transformer of open_clip."""
        return self.kind in OPEN_CLIP

    def layer(self, place: Place) -> int | None:
        """Return the number of a tensor's layer, counted over all stages; None outside layers."""
        if place.stage is None or place.layer is None:
            return place.layer
        return sum(self.stages[: place.stage]) + place.layer

    @property
    def plain(self) -> bool:
        """Whether this is an ordinary CLIP tower: equal layers, heads that fill the width."""
        if not self.of_open_clip:
            return False
        heads, neurons = set(self.heads), set(self.neurons)
        equal = len(heads) == len(neurons) == 1 and min(neurons) > 0
        return equal and self.heads[0] * self.head_width == self.width


@dataclass(frozen=True, slots=True)
class ClipUnits:
    """Units of both towers, and the sizes that masks do not change."""

    image: TowerUnits
    text: TowerUnits
    embed_dim: int
    patch: int  # pixels

    @property
    def prunable(self) -> int:
        """Prunable parameters of both towers together."""
        return self.image.prunable + self.text.prunable

    @property
    def fixed(self) -> int:
        """Parameters that the sparsity does not count, without the token embedding.

        Convolution, class and position embeddings, LayerNorms and projections, at full width.
        """
        image = 3 * self.patch**2 + 1 + self.image.positions + 4 + self.embed_dim
        text = self.text.positions + 2 + self.embed_dim
        layers = 4 * len(self.image.heads), 4 * len(self.text.heads)
        of_image = 0 if self.image.stages else self.image.width * (image + layers[0])
        return self.image.unmasked + of_image + self.text.width * (text + layers[1])

    @property
    def kinds(self) -> dict[TowerName, TowerKind]:
        """The kind of each tower."""
        return {
            "image": TOWER_KINDS[self.image.kind or VIT.name],
            "text": TOWER_KINDS[self.text.kind or TEXT.name],
        }

    def table(self) -> dict[str, Any]:
        """Return the units as plain data, as a model folder holds them."""
        towers = {"image": self.image.table(), "text": self.text.table()}
        return {**towers, "embed_dim": self.embed_dim, "patch": self.patch}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], heads: HeadWidths | None = None) -> ClipUnits:
        """Count the units in the weights of a CLIP, pruned or not.

        A block without heads or neurons has only the biases of their outputs. Raises
        InheritanceError for towers that cannot be masked.
        """
        heads = heads or HeadWidths()
        image, embed_dim = _tower(state, "image", heads.image)
        text, text_embed_dim = _tower(state, "text", heads.text)
        patch = TOWER_KINDS[image.kind or VIT.name].patch  # empty: no single patch embedding
        return cls(
            image,
            text,
            text_embed_dim or embed_dim or text.width,
            state[IMAGE_PREFIX + patch].shape[-1] if patch else 0,
        )


def inner_axes(kind: str) -> tuple[str, ...]:
    """Return the axes that count as a block's neurons in a tower in stages."""
    return ("reduced", "convolved") if kind == RESNET.name else ("neurons",)


def _tower(
    state: Mapping[str, Tensor], tower: TowerName, head_width: int
) -> tuple[TowerUnits, int]:
    """Return the units of a tower and the width of its embedding, 0 without a projection."""
    kind, prefix = recognise(state, tower)
    if not kind.writes:
        raise InheritanceError(f"a {kind.name} cannot be masked; {UNMASKED}")
    if kind.stages:
        return _staged(state, kind, prefix, head_width)
    heads, neurons, matrices = [], [], 2
    for layer in range(count_blocks(state, prefix + kind.blocks, f"the {tower} tower")):
        sizes = kind.layer_sizes(state, prefix, layer)
        count, remainder = divmod(sizes["attended"], head_width)
        if remainder:
            raise InheritanceError(
                f"the {tower} tower's attention is {sizes['attended']} wide in layer {layer}, "
                f"which is not a multiple of the head width {head_width}"
            )
        heads.append(count)
        neurons.append(sizes["neurons"])
        matrices = max(matrices, _matrices(state, f"{prefix}{kind.blocks}{layer}.", kind))
    outer = kind.sizes(state, prefix)
    pool = f"{prefix}trunk.attn_pool.latent"
    counted = kind.whole or kind is POOLED_VIT
    units = TowerUnits(
        outer["channels"],
        head_width,
        tuple(heads),
        tuple(neurons),
        outer.get("positions", 0),
        "" if kind in (VIT, TEXT) else kind.name,
        matrices,
        outer["pooled"] if pool in state else 0,
        unmasked=_unmasked(state, kind, prefix) if counted else 0,
    )
    return units, outer.get("embed", 0)


def _matrices(state: Mapping[str, Tensor], block: str, kind: TowerKind) -> int:
    """Return the number of matrices of a layer's feed-forward part."""
    names = (name for name, axes in kind.block.items() if "neurons" in axes and len(axes) > 1)
    return sum(block + name in state for name in names)


def _unmasked(state: Mapping[str, Tensor], kind: TowerKind, prefix: str) -> int:
    """Return the parameters of tensors outside the layers that pruning does not cut."""
    total = 0
    for key, tensor in state.items():
        place = kind.locate(key, prefix) if key.startswith(prefix) else None
        uncut = place is not None and place.layer is None and PRUNED.isdisjoint(place.axes)
        total += tensor.numel() if uncut and not key.endswith(STATISTICS) else 0
    return total


def _staged(
    state: Mapping[str, Tensor], kind: TowerKind, prefix: str, head_width: int
) -> tuple[TowerUnits, int]:
    """Return the units of a tower in stages, in which only neurons have masks."""
    neurons, stages, widths = [], [], []
    inner, outer = _STAGED[kind.name]
    first = kind.first_stage
    where = "the image tower's stages"
    for stage in range(first, first + count_blocks(state, prefix + kind.stages, where, first)):
        start = f"{prefix}{kind.stages}{stage}.{kind.blocks}"
        blocks = count_blocks(state, start, f"stage {stage + 1 - first} of the image tower")
        for block, name in product(range(blocks), inner):
            weight = state.get(f"{start}{block}.{name}")
            neurons.append(0 if weight is None else weight.shape[0])
        stages.append(blocks)
        widths.append(state[f"{start}0.{outer}"].shape[0])
    stem = state.get(f"{prefix}bn3.weight")  # of a ResNet
    units = TowerUnits(
        width=widths[0] if stem is None else len(stem),
        head_width=head_width,
        heads=(0,) * len(neurons),
        neurons=tuple(neurons),
        positions=0,
        kind=kind.name,
        stages=tuple(stages),
        widths=tuple(widths),
    )
    parameters = sum(
        tensor.numel()
        for key, tensor in state.items()
        if key.startswith(prefix) and not key.endswith(STATISTICS)
    )
    embed = kind.sizes(state, prefix).get("embed", 0)
    return replace(units, unmasked=parameters - units.prunable), embed
