"""Estimate the size of a configured network before it is built."""

from __future__ import annotations

import math
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.limits import is_count
from tinyclip_edge.models.sized_text import HF_CONFIG, has_own_text, sizes_of

MAX_LAYERS = 1000
MAX_PARAMETERS = 50e9  # ten times the largest open_clip model


def check_sizes(model_cfg: dict[str, Any], source: str) -> None:
    """Refuse a model_cfg whose towers are too large to build, as in a broken file.

    Raises ModelError. Values of a wrong type are reported by open_clip.
    """
    for key in ("context_length", "vocab_size"):
        value = model_cfg["text_cfg"].get(key, 1)
        if not is_count(value):
            raise ModelError(
                f"{source}: model_cfg.text_cfg.{key} is {value!r}; it must be a whole number "
                "above 0"
            )
    text = model_cfg["text_cfg"]
    if has_own_text(model_cfg):
        text = {**sizes_of(text[HF_CONFIG]), **text}
    for name, tower in (("vision_cfg", model_cfg["vision_cfg"]), ("text_cfg", text)):
        layers = _size(tower.get("layers"), 12)
        if layers > MAX_LAYERS:
            raise ModelError(
                f"{source}: model_cfg.{name}.layers is {layers:.4g}; at most "
                f"{MAX_LAYERS:,} are built"
            )
        count = _parameters(tower, layers, _size(model_cfg.get("embed_dim"), 512))
        if count > MAX_PARAMETERS:
            raise ModelError(
                f"{source}: model_cfg.{name} describes about {count:.2g} parameters, "
                f"at most {MAX_PARAMETERS:.0e} are built; its sizes are broken"
            )


def _parameters(tower: dict[str, Any], layers: float, embed_dim: float) -> float:
    """Return the approximate number of parameters, including a mask's entries."""
    width = _size(tower.get("width"), 768)
    block = width * width * (4 + 2 * _size(tower.get("mlp_ratio"), 4))
    patch, image = _size(tower.get("patch_size"), 16), _size(tower.get("image_size"), 224)
    context = _size(tower.get("context_length"), 77)
    pool = _size(tower.get("attn_pooler_queries"), 256) * width
    side = image / max(patch, 1.0)
    tokens = _size(tower.get("vocab_size"), 49408) + context + side * side
    around = 3 * patch * patch + embed_dim + tokens
    return layers * block + width * around + context * context + pool


def _size(value: object, usual: float) -> float:
    """Return a number as float, or the sum of a list (a ResNet's layers, height and width)."""
    if isinstance(value, (list, tuple)):
        return sum(_size(item, 0.0) for item in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return usual
    try:
        size = abs(float(value))
    except OverflowError:
        return math.inf
    return usual if math.isnan(size) else size
