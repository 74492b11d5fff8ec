"""Count the units that masks can remove: hidden channels, heads and neurons, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.shape import IMAGE_BLOCKS, TEXT_BLOCKS, count_blocks

Tower = Literal["image", "text"]
NO_RESNET = (
    "a ResNet image tower cannot be masked: its channels carry no gates; "
    "inherit it with inherit.method=uniform"
)
IN_PROJ, C_FC = "attn.in_proj_weight", "mlp.c_fc.weight"


@dataclass(frozen=True, slots=True)
class TowerUnits:
    """Units of one transformer tower; heads and neurons may differ from layer to layer."""

    width: int  # hidden channels, shared by all layers
    head_width: int
    heads: tuple[int, ...]  # per layer; 0 where only the bias of out_proj is left
    neurons: tuple[int, ...]  # per layer
    positions: int  # image: patches + 1; text: context length

    @property
    def prunable(self) -> int:
        """Parameters of attention and feed-forward blocks, which the sparsity counts."""
        attended = sum(self.heads) * self.head_width
        attention = attended * (4 * self.width + 3) + len(self.heads) * self.width
        forward = sum(self.neurons) * (2 * self.width + 1) + len(self.neurons) * self.width
        return attention + forward

    @property
    def plain(self) -> bool:
        """Whether this is an ordinary CLIP tower: equal layers, heads that fill the width."""
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
        return self.image.width * (image + layers[0]) + self.text.width * (text + layers[1])

    @classmethod
    def of(
        cls,
        state: Mapping[str, Tensor],
        head_width: int = 64,
        text_head_width: int | None = None,
    ) -> ClipUnits:
        """Count the units in the weights of a plain or a pruned CLIP.

        A block without ``attn.in_proj_weight`` has no heads, one without ``mlp.c_fc.weight`` no
        neurons. Raises InheritanceError for towers that cannot be masked.
        """
        if "visual.layer1.0.conv1.weight" in state:
            raise InheritanceError(NO_RESNET)
        for key in ("visual.positional_embedding", "visual.conv1.weight", "visual.proj"):
            _require(state, "image", key)
        for key in ("positional_embedding", "token_embedding.weight", "text_projection"):
            _require(state, "text", key)
        return cls(
            image=_tower(state, IMAGE_BLOCKS, head_width),
            text=_tower(state, TEXT_BLOCKS, text_head_width or head_width),
            embed_dim=state["visual.proj"].shape[1],
            patch=state["visual.conv1.weight"].shape[-1],
        )


def _require(state: Mapping[str, Tensor], tower: str, key: str) -> None:
    if key not in state:
        raise InheritanceError(
            f"the {tower} tower cannot be masked: not a plain CLIP transformer, it has no '{key}'"
        )


def _tower(state: Mapping[str, Tensor], blocks: str, head_width: int) -> TowerUnits:
    name = "image" if blocks == IMAGE_BLOCKS else "text"
    heads, neurons = [], []
    for layer in range(count_blocks(state, blocks, f"the {name} tower")):
        rows = len(state[key]) if (key := f"{blocks}{layer}.{IN_PROJ}") in state else 0
        count, remainder = divmod(rows, 3 * head_width)
        if remainder:
            raise InheritanceError(
                f"the {name} tower's attention is {rows // 3} wide in layer {layer}, "
                f"no multiple of {head_width} a head"
            )
        heads.append(count)
        neurons.append(len(state[key]) if (key := f"{blocks}{layer}.{C_FC}") in state else 0)
    positions = state["visual.positional_embedding" if name == "image" else "positional_embedding"]
    return TowerUnits(positions.shape[1], head_width, tuple(heads), tuple(neurons), len(positions))
