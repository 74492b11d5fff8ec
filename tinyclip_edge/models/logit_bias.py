"""The logit bias of models that score each label independently (SigLIP)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from tinyclip_edge.models.clip import LoadedClip

FIRST_BIAS = -10.0  # as in SigLIP


def with_logit_bias(clip: LoadedClip, value: float = FIRST_BIAS) -> LoadedClip:
    """Add a logit bias to a model in place, and return it with a configuration that has it too.

    A model that already has one is returned unchanged.
    """
    if clip.logit_bias is not None:
        return clip
    scale = clip.model.get_parameter("logit_scale")
    clip.model.logit_bias = nn.Parameter(torch.full_like(scale, value))
    config = deepcopy(clip.config)
    config["model_cfg"]["init_logit_bias"] = value
    return replace(clip, config=config)
