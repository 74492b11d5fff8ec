"""Build small siblings of model families, with random weights from a seed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from tinyclip_edge.families.siblings import SIBLINGS, TOKENIZERS
from tinyclip_edge.families.tokenizers import tokenizer_file
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.clip import LoadedClip


def family(name: str, *, seed: int = 0, **changes: Any) -> LoadedClip:  # noqa: ANN401
    """Return a sibling with noise on its weights, so that all of them affect its features.

    ``changes`` replace parts of its configuration.
    """
    config = deepcopy(SIBLINGS[name])
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    torch.manual_seed(seed)
    own = TOKENIZERS.get(name)
    clip = assemble(
        config, None, name=name, tokenizer_file=None if own is None else tokenizer_file(own)
    )
    with torch.no_grad():
        for parameter in clip.model.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn(parameter.shape) * 0.05)
        _fill_statistics(clip)
    return clip


def _fill_statistics(clip: LoadedClip) -> None:
    """Set the statistics of each BatchNorm from random pictures, so that activations stay small."""
    model: Any = clip.model
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None  # cumulative mean
    model.train()
    model.encode_image(torch.randn(8, 3, clip.image_size, clip.image_size))
    model.eval()
    for norm in norms:
        norm.momentum = 0.1
        norm.running_var.mul_(torch.rand(norm.running_var.shape) + 0.5)
