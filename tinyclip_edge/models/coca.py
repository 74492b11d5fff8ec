"""CoCa models of open_clip as CLIPs of their two towers: the captioning decoder is left out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor

from tinyclip_edge.errors import TinyClipWarning

DECODER_CFG = "multimodal_cfg"
_DECODER = "text_decoder."
_TOKENS = "output_tokens"  # makes the towers also return what the decoder reads


def is_coca(model_cfg: Mapping[str, Any]) -> bool:
    """Whether a model_cfg describes a decoder beside the two towers."""
    return DECODER_CFG in model_cfg


def two_towers(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a model_cfg without the decoder, whose towers return only embeddings."""
    config = deepcopy(dict(model_cfg))
    if config.pop(DECODER_CFG, None) is not None:
        config["custom_text"] = True  # its weights have the names of that class
    for tower in ("vision_cfg", "text_cfg"):
        config[tower].pop(_TOKENS, None)
    return config


def without_decoder(
    weights: Mapping[str, Tensor], model_cfg: Mapping[str, Any], source: str
) -> dict[str, Tensor]:
    """Return weights without those of a decoder that a model_cfg describes, with a warning."""
    if not is_coca(model_cfg):
        return dict(weights)
    warnings.warn(
        f"{source} is a CoCa model: its two towers are read, its captioning decoder is left out",
        TinyClipWarning,
        stacklevel=2,
    )
    return {key: tensor for key, tensor in weights.items() if not key.startswith(_DECODER)}
