"""Infer the architecture of a CLIP from the names and shapes of its weights.

Weights show neither the activation nor the width of a head. The width is assumed to be 64, as in
every published CLIP, unless the caller passes another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.shape import IMAGE_BLOCKS, TEXT_BLOCKS
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits
from tinyclip_edge.models.build import mlp_ratio
from tinyclip_edge.models.sizes import MAX_LAYERS
from tinyclip_edge.models.weights import listed

HEAD_WIDTHS = (64, 64)  # of image and text
_RESNET = "visual.layer1.0.conv1.weight"
_RESNET_STAGES = range(1, 5)
_REQUIRED_KEYS = {
    "ViT image": ("visual.conv1.weight", "visual.positional_embedding", "visual.proj"),
    "ResNet image": ("visual.attnpool.positional_embedding", "visual.attnpool.c_proj.weight"),
    "text": ("token_embedding.weight", "positional_embedding", "text_projection"),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """open_clip's config, and layer sizes of towers that this config cannot describe."""

    model_cfg: dict[str, Any]
    image: TowerUnits | None  # None for a ResNet
    text: TowerUnits

    @property
    def plain(self) -> bool:
        """Whether open_clip can build both towers."""
        return self.text.plain and (self.image is None or self.image.plain)

    @property
    def units(self) -> ClipUnits:
        """Layer-by-layer sizes of both towers; only for a ViT."""
        assert self.image is not None
        patch = self.model_cfg["vision_cfg"]["patch_size"]
        return ClipUnits(self.image, self.text, self.model_cfg["embed_dim"], patch)


def infer(
    state: Mapping[str, Tensor],
    source: str,
    *,
    pruned: bool,
    head_widths: tuple[int, int] = HEAD_WIDTHS,
) -> Architecture:
    """Return the architecture of a state dict with open_clip's names. Raises ModelError.

    A block without attention counts as pruned of all its heads if ``pruned``, or if other blocks
    differ in size; otherwise its tensors count as missing, which loading reports.
    """
    _require(state, "text", source)
    text = _layers(state, TEXT_BLOCKS, "text", source, head_widths[1])
    vision, image, embed = _vision(state, source, head_widths[0])
    towers = [tower for tower in (text, image) if tower is not None]
    if not pruned and all(_is_uniform(tower) for tower in towers):
        text, image = _restored(text), None if image is None else _restored(image)
    if image is None and not text.plain:
        raise ModelError(
            f"{source}: the text layers differ in size and the image tower is a ResNet; a pruned "
            "CLIP can be opened only with a ViT"
        )
    model_cfg = {
        "embed_dim": embed,
        "vision_cfg": vision if image is None else {**vision, **_sizes(image), **_heads(image)},
        "text_cfg": {
            "context_length": state["positional_embedding"].shape[0],
            "vocab_size": state["token_embedding.weight"].shape[0],
            "heads": text.heads[0] if text.plain else 1,
            **_sizes(text),
        },
    }
    return Architecture(model_cfg, image, text)


def _vision(
    state: Mapping[str, Tensor], source: str, head_width: int
) -> tuple[dict[str, Any], TowerUnits | None, int]:
    if _RESNET in state:
        _require(state, "ResNet image", source)
        blocks = [_block_count(state, f"visual.layer{stage}.", source) for stage in _RESNET_STAGES]
        positions = state["visual.attnpool.positional_embedding"].shape[0]
        side = _side(positions, "visual.attnpool.positional_embedding", source)
        config = {"layers": blocks, "width": state[_RESNET].shape[0], "patch_size": None}
        embed = state["visual.attnpool.c_proj.weight"].shape[0]
        return {"image_size": 32 * side, **config}, None, embed
    _require(state, "ViT image", source)
    patch = state["visual.conv1.weight"].shape[-1]
    positions = state["visual.positional_embedding"].shape[0]
    side = _side(positions, "visual.positional_embedding", source)
    sizes = _layers(state, IMAGE_BLOCKS, "image", source, head_width)
    return {"image_size": patch * side, "patch_size": patch}, sizes, state["visual.proj"].shape[1]


def _require(state: Mapping[str, Tensor], tower: str, source: str) -> None:
    name = tower.rsplit(maxsplit=1)[-1]
    tower_keys = [
        key
        for key in state
        if key.startswith("visual.") == (name == "image")
        and key not in ("logit_scale", "logit_bias")
    ]
    if not tower_keys:
        raise ModelError(f"{source} has no {name} tower; give a checkpoint with both towers")
    missing = [key for key in _REQUIRED_KEYS[tower] if key not in state]
    shapes = [key for key in _REQUIRED_KEYS[tower] if key in state and not _shaped(key, state[key])]
    if missing or shapes:
        fault = listed("missing", missing) if missing else listed("misshapen", shapes)
        raise ModelError(
            f"{source}: the {name} tower is not a plain CLIP transformer or ResNet: {fault}; "
            f"it has {listed('tensors', tower_keys)}. Name another architecture with --config"
        )


def _layers(
    state: Mapping[str, Tensor], blocks: str, name: str, source: str, head_width: int
) -> TowerUnits:
    count = _block_count(state, blocks, source)
    if count == 0:
        raise ModelError(f"{source}: the {name} tower has no blocks ({blocks}0 …)")
    positions = "visual.positional_embedding" if name == "image" else "positional_embedding"
    heads, neurons = [], []
    for layer in range(count):
        rows = _rows(state, f"{blocks}{layer}.attn.in_proj_weight")
        if rows % (3 * head_width):
            raise ModelError(
                f"{source}: {blocks}{layer}.attn is {rows / 3:g} wide, which is not a multiple "
                f"of the head width {head_width}; name the architecture with --config"
            )
        heads.append(rows // (3 * head_width))
        neurons.append(_rows(state, f"{blocks}{layer}.mlp.c_fc.weight"))
    rows, width = state[positions].shape
    return TowerUnits(width, head_width, tuple(heads), tuple(neurons), rows)


def _shaped(key: str, tensor: Tensor) -> bool:
    """Whether a tensor has the axes from which sizes are read, and is not empty."""
    return tensor.ndim == (4 if key == "visual.conv1.weight" else 2) and tensor.numel() > 0


def _rows(state: Mapping[str, Tensor], key: str) -> int:
    """Return the first axis of a weight, 0 where there is none; loading checks the others."""
    return state[key].shape[0] if key in state and state[key].ndim else 0


def _block_count(state: Mapping[str, Tensor], prefix: str, source: str) -> int:
    """Return the number of blocks up to the highest index; gaps are reported as missing later."""
    numbers = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    decimals = [number for number in numbers if number.isdecimal()]
    longest = max(decimals, key=lambda number: (len(number), number), default="")
    if len(longest) > len(str(MAX_LAYERS)) or int(longest or 0) >= MAX_LAYERS:
        raise ModelError(
            f"{source} has a tensor of block {prefix}{longest}; at most {MAX_LAYERS:,} blocks are "
            "read"
        )
    return max((int(number) + 1 for number in decimals), default=0)


def _is_uniform(sizes: TowerUnits) -> bool:
    """Whether all present blocks have one size and attention as wide as the tower."""
    heads, neurons = {*sizes.heads} - {0}, {*sizes.neurons} - {0}
    return len(neurons) <= 1 and all(count * sizes.head_width == sizes.width for count in heads)


def _restored(sizes: TowerUnits) -> TowerUnits:
    """Return the sizes with attention and feed-forward parts at full size in every layer."""
    layers = len(sizes.heads)
    heads, neurons = sizes.width // sizes.head_width, max(sizes.neurons) or 4 * sizes.width
    return replace(sizes, heads=(heads,) * layers, neurons=(neurons,) * layers)


def _sizes(sizes: TowerUnits) -> dict[str, Any]:
    """Return width, layers and, unless it is the usual 4, the ratio of the feed-forward block."""
    neurons = max(sizes.neurons)
    config: dict[str, Any] = {"width": sizes.width, "layers": len(sizes.heads)}
    if neurons != 4 * sizes.width:
        config["mlp_ratio"] = mlp_ratio(sizes.width, neurons)
    return config


def _heads(image: TowerUnits) -> dict[str, Any]:
    """Return the width of a head; for unequal layers the tower's width, which open_clip accepts."""
    return {"head_width": image.head_width if image.plain else image.width}


def _side(positions: int, key: str, source: str) -> int:
    side = math.isqrt(positions - 1) if positions > 1 else 0
    if side < 1 or side * side + 1 != positions:
        raise ModelError(
            f"{source}: {key} has {positions} rows, which are not a square grid plus a class "
            "token; name the architecture with --config"
        )
    return side
