"""What each axis of a transformer CLIP's tensors counts: the one table for slicing and pruning."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from tinyclip_edge.inheritance.shape import IMAGE_BLOCKS, TEXT_BLOCKS

# channels, positions, embed and tokens of a tower; qkv, attended and neurons of a layer; None for
# an axis that is never sliced.
Axes: TypeAlias = "tuple[str | None, ...]"

# Scalars that belong to no tower.
SHARED = ("logit_scale", "logit_bias")
TOKENS = "token_embedding.weight"
_VECTOR: Axes = ("channels",)
_BLOCK: dict[str, Axes] = {
    "ln_1.weight": _VECTOR,
    "ln_1.bias": _VECTOR,
    "ln_2.weight": _VECTOR,
    "ln_2.bias": _VECTOR,
    "ls_1.gamma": _VECTOR,
    "ls_2.gamma": _VECTOR,
    "attn.in_proj_weight": ("qkv", "channels"),
    "attn.in_proj_bias": ("qkv",),
    "attn.out_proj.weight": ("channels", "attended"),
    "attn.out_proj.bias": _VECTOR,
    "mlp.c_fc.weight": ("neurons", "channels"),
    "mlp.c_fc.bias": ("neurons",),
    "mlp.c_proj.weight": ("channels", "neurons"),
    "mlp.c_proj.bias": _VECTOR,
}
_IMAGE: dict[str, Axes] = {
    "visual.class_embedding": _VECTOR,
    "visual.positional_embedding": ("positions", "channels"),
    "visual.conv1.weight": ("channels", None, None, None),
    "visual.ln_pre.weight": _VECTOR,
    "visual.ln_pre.bias": _VECTOR,
    "visual.ln_post.weight": _VECTOR,
    "visual.ln_post.bias": _VECTOR,
    "visual.proj": ("channels", "embed"),
}
_TEXT: dict[str, Axes] = {
    TOKENS: ("tokens", "channels"),
    "positional_embedding": ("positions", "channels"),
    "ln_final.weight": _VECTOR,
    "ln_final.bias": _VECTOR,
    "text_projection": ("channels", "embed"),
}


class Place(NamedTuple):
    """Position of a tensor in a CLIP; ``name`` is its key without the prefix of its layer."""

    tower: Literal["image", "text"]
    blocks: str  # prefix of the tower's layers
    layer: int | None  # None outside the layers
    name: str
    axes: Axes


def locate(key: str) -> Place | None:
    """Return the position of an open_clip tensor, None for an unknown key."""
    towers: tuple[tuple[Literal["image", "text"], str, dict[str, Axes]], ...] = (
        ("image", IMAGE_BLOCKS, _IMAGE),
        ("text", TEXT_BLOCKS, _TEXT),
    )
    for tower, blocks, table in towers:
        if key in table:
            return Place(tower, blocks, None, key, table[key])
        number, _, name = key.removeprefix(blocks).partition(".")
        if key.startswith(blocks) and name in _BLOCK:
            return Place(tower, blocks, int(number), name, _BLOCK[name])
    return None
