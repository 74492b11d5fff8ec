"""Small CoCa models of open_clip with random weights, decoder and all, and their folders."""

from __future__ import annotations

import json
from copy import deepcopy

import open_clip
import safetensors.torch
import torch

from tinyclip_edge.families.siblings import SIBLINGS

TEXTS = ["a red cat", "dog", "a photo of a text that is cut at the end of its context", ""]


def make_coca(**changes):
    """A CoCa and its configuration; ``changes`` replace parts of that."""
    config = deepcopy(SIBLINGS["CoCa"])
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    torch.manual_seed(0)
    options = {key: value for key, value in config.items() if key != "custom_text"}
    model = open_clip.CoCa(**options).eval()
    with torch.no_grad():
        # open_clip leaves this one uninitialised.
        model.text_decoder.text_projection.zero_()
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn(parameter.shape) * 0.05)
    return model, config


def save_coca(folder, **changes):
    """Write a CoCa as open_clip does; return it."""
    model, config = make_coca(**changes)
    folder.mkdir(exist_ok=True)
    content = {"model_cfg": config, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    return model


def pictures(count=4, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
