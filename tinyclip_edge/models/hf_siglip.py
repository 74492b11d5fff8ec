"""``config.json`` of a Hugging Face SiglipModel or Siglip2Model, as open_clip's model_cfg.

In transformers a Siglip2Model takes pictures of any shape; here all are squares of its usual
number of patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.hf_fields import read_count, read_head_width, read_sizes, read_tower
from tinyclip_edge.models.sized_timm import SIZES, TimmSizes, timm_sizes

_TANH = "gelu_pytorch_tanh"
# timm's vision transformers with an attention pool, by activation; sizes and patches are set.
_TRUNKS = {_TANH: "vit_so400m_patch16_siglip_256", "gelu": "vit_base_patch16_siglip_224"}
_PATCH = 16  # of both
_EPS = 1e-6  # of their norms
# transformers' defaults for keys that a config.json omits.
_TRANSFORMER: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": _TANH,
    "layer_norm_eps": _EPS,
}
_TEXT_DEFAULTS = _TRANSFORMER | {"vocab_size": 32000, "max_position_embeddings": 64}
_VISION_DEFAULTS = _TRANSFORMER | {
    "image_size": 224,
    "patch_size": 16,
    "num_patches": 256,
    "num_channels": 3,
    "vision_use_head": True,
}


def read_siglip_cfg(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return open_clip's model_cfg of a config of either kind. Raises ModelError."""
    text = read_tower(config, "text", _TEXT_DEFAULTS, path)
    vision = read_tower(config, "vision", _VISION_DEFAULTS, path)
    patch = read_count(vision, "patch_size", path)
    size = _square(vision, patch, path) if config["model_type"] == "siglip2" else None
    width = read_count(vision, "hidden_size", path)
    _check(text, vision, width, path)
    return {
        "embed_dim": width,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": size or read_count(vision, "image_size", path),
            **_trunk(vision, patch, path),
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": read_count(text, "max_position_embeddings", path),
            "vocab_size": read_count(text, "vocab_size", path),
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "heads": read_count(text, "num_attention_heads", path),
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            **({"act_kwargs": {"approximate": "tanh"}} if text["hidden_act"] == _TANH else {}),
            **read_sizes(text, path),
        },
    }


def _square(vision: Mapping[str, Any], patch: int, path: Path) -> int:
    """Return the pixels of a side of the square that a Siglip2Model's positions describe."""
    patches = read_count(vision, "num_patches", path)
    side = math.isqrt(patches)
    if side * side != patches:
        raise ModelError(f"{path}: num_patches {patches} is not a square number")
    return side * patch


def _check(text: Mapping[str, Any], vision: Mapping[str, Any], width: int, path: Path) -> None:
    for name, tower in (("text", text), ("vision", vision)):
        if tower["hidden_act"] not in _TRUNKS:
            raise ModelError(
                f"{path}: {name}_config.hidden_act {tower['hidden_act']!r} cannot be opened; "
                f"{' and '.join(_TRUNKS)} can"
            )
    if vision["num_channels"] != 3:
        raise ModelError(f"{path}: num_channels is {vision['num_channels']}, only 3 can be opened")
    if vision["vision_use_head"] is not True:
        raise ModelError(
            f"{path}: vision_use_head is off; only towers with an attention pool can be opened"
        )
    if vision["layer_norm_eps"] != _EPS:
        raise ModelError(f"{path}: vision_config.layer_norm_eps must be {_EPS:g}")
    projection = text.get("projection_size")
    projection = text["hidden_size"] if projection is None else projection
    if projection != width:
        raise ModelError(
            f"{path}: embeddings of images have {width} dimensions, of texts {projection}"
        )


def _trunk(vision: Mapping[str, Any], patch: int, path: Path) -> dict[str, Any]:
    """Return the timm model, and its sizes unless they are that name's defaults."""
    sizes = {key: value for key, value in read_sizes(vision, path).items() if key in SIZES}
    sizes |= {"head_width": read_head_width(vision, path), "patch_size": patch}
    sizes.setdefault("mlp_ratio", 4.0)
    name = _TRUNKS[vision["hidden_act"]]
    trunk = {"timm_model_name": name}
    usual = timm_sizes(name)
    return trunk if usual is not None and _is_usual(sizes, usual) else trunk | sizes


def _is_usual(sizes: Mapping[str, Any], usual: TimmSizes) -> bool:
    neurons, usual_neurons = (
        int(s * w)
        for s, w in ((sizes["mlp_ratio"], sizes["width"]), (usual.mlp_ratio, usual.width))
    )
    shape = (sizes["width"], sizes["layers"], sizes["head_width"], sizes["patch_size"])
    return neurons == usual_neurons and shape == (
        usual.width,
        usual.layers,
        usual.head_width,
        _PATCH,
    )
