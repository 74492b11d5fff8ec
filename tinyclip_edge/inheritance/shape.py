"""Read the shape of a CLIP from its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tinyclip_edge.errors import InheritanceError

IMAGE_BLOCKS = "visual.transformer.resblocks."
TEXT_BLOCKS = "transformer.resblocks."
RESNET_STAGES = 4
RESNET_GROWTH = 32  # ratio of the attention pool's channels to the stem's


@dataclass(frozen=True, slots=True)
class TowerShape:
    """Sizes of one tower; for a ResNet, heads and positions are those of its attention pool."""

    kind: Literal["vit", "resnet", "text"]
    width: int = 0  # hidden channels; for a ResNet the stem's output channels
    layers: int = 0  # blocks
    heads: int = 0
    head_width: int = 0
    neurons: int = 0  # of each feed-forward block; none in a ResNet
    positions: int = 0  # image: patches + 1; text: context length
    stages: tuple[int, ...] = ()  # blocks of each stage of a ResNet


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Sizes of both towers, the embedding and the vocabulary."""

    image: TowerShape
    text: TowerShape
    embed_dim: int
    vocabulary: int  # 0 in a student with other ids than its teacher's
    patch: int  # pixels; 0 for a ResNet

    @classmethod
    def of(
        cls,
        state: Mapping[str, Tensor],
        head_width: int = 64,
        text_head_width: int | None = None,
    ) -> ClipShape:
        """Read the sizes from an open_clip state dict in any order of keys.

        The head width cannot be read from weights and defaults to 64. Raises InheritanceError for
        towers of another architecture.
        """
        _require(state, "text", ("token_embedding.weight", "positional_embedding"))
        text = _tower(state, TEXT_BLOCKS, text_head_width or head_width)
        vocabulary = state["token_embedding.weight"].shape[0]
        if "visual.layer1.0.conv1.weight" in state:
            _require(state, "text", ("text_projection",))
            embed_dim = state["text_projection"].shape[1]
            return cls(_resnet(state, head_width), text, embed_dim, vocabulary, patch=0)
        _require(state, "image", ("visual.conv1.weight", "visual.positional_embedding"))
        _require(state, "image", ("visual.proj",))
        image = _tower(state, IMAGE_BLOCKS, head_width)
        embed_dim = state["visual.proj"].shape[1]
        return cls(image, text, embed_dim, vocabulary, state["visual.conv1.weight"].shape[-1])


def _require(state: Mapping[str, Tensor], tower: str, keys: Iterable[str]) -> None:
    for key in keys:
        if key not in state:
            raise InheritanceError(
                f"the {tower} tower is not a plain CLIP transformer or ResNet: it has no '{key}'; "
                "a student starts without its weights by inherit.method=none"
            )


def _tower(state: Mapping[str, Tensor], blocks: str, head_width: int) -> TowerShape:
    image = blocks == IMAGE_BLOCKS
    name = "image" if image else "text"
    layers = count_blocks(state, blocks, f"the {name} tower")
    _require(state, name, (f"{blocks}0.attn.in_proj_weight", f"{blocks}0.mlp.c_fc.weight"))
    rows, width = state[f"{blocks}0.attn.in_proj_weight"].shape
    heads, remainder = divmod(rows, 3 * head_width)
    if remainder:
        raise InheritanceError(
            f"the {name} tower's attention is {rows // 3} wide, no multiple of {head_width} a head"
        )
    positions = state["visual.positional_embedding" if image else "positional_embedding"]
    return TowerShape(
        kind="vit" if image else "text",
        width=width,
        layers=layers,
        heads=heads,
        head_width=head_width,
        neurons=state[f"{blocks}0.mlp.c_fc.weight"].shape[0],
        positions=positions.shape[0],
    )


def count_blocks(state: Mapping[str, Tensor], prefix: str, where: str) -> int:
    """Return the number of blocks under a prefix; raise InheritanceError when numbers have gaps."""
    numbers = {
        int(key.removeprefix(prefix).split(".", 1)[0]) for key in state if key.startswith(prefix)
    }
    if not numbers or numbers != set(range(len(numbers))):
        raise InheritanceError(f"{where} has blocks {sorted(numbers)}, not 0, 1, 2 …")
    return len(numbers)


def _resnet(state: Mapping[str, Tensor], head_width: int) -> TowerShape:
    pool = "visual.attnpool."
    _require(state, "image", (f"{pool}positional_embedding", f"{pool}q_proj.weight"))
    _require(state, "image", ("visual.conv3.weight",))
    width = state["visual.conv3.weight"].shape[0]
    attended, channels = state[f"{pool}q_proj.weight"].shape
    heads, remainder = divmod(attended, head_width)
    if remainder:
        raise InheritanceError(
            f"the image tower's attention pool is {attended} wide, "
            f"no multiple of {head_width} a head"
        )
    if channels != RESNET_GROWTH * width:
        raise InheritanceError(
            f"the ResNet image tower pools {channels} channels, "
            f"not {RESNET_GROWTH} times the {width} of its stem"
        )
    stages = tuple(
        count_blocks(state, f"visual.layer{stage}.", f"ResNet stage {stage}")
        for stage in range(1, RESNET_STAGES + 1)
    )
    positions = state[f"{pool}positional_embedding"].shape[0]
    return TowerShape("resnet", width, sum(stages), heads, head_width, 0, positions, stages)
