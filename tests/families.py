"""Small siblings of today's model families: their architecture, shrunk, with random weights."""

from __future__ import annotations

from copy import deepcopy

import torch

from tinyclip_edge.models.assemble import assemble

CLIP_TEXT = {"context_length": 8, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 4}
SIGLIP_TEXT = {
    **CLIP_TEXT,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}


def timm_tower(name, *, size=32, width=64, layers=4, head_width=16, **options):
    return {
        "image_size": size,
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "width": width,
        "layers": layers,
        "head_width": head_width,
        **options,
    }


FAMILIES = {
    "ViT": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 32, "patch_size": 16, "width": 64, "layers": 4, "head_width": 16,
        },
        "text_cfg": CLIP_TEXT,
    },
    "SigLIP 2": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": timm_tower(
            "vit_base_patch16_siglip_224", timm_pool="map", timm_proj="none"
        ),
        "text_cfg": SIGLIP_TEXT,
    },
    "PE-Core": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": timm_tower(
            "vit_pe_core_base_patch16_224", width=192, head_width=32, timm_pool="map",
            timm_proj=None,
        ),
        "text_cfg": CLIP_TEXT,
    },
    "EVA02": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": timm_tower(
            "eva02_base_patch16_clip_224", timm_pool="token", timm_proj=None
        ),
        "text_cfg": CLIP_TEXT,
    },
    "CLIPA": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 32, "patch_size": 16, "width": 64, "layers": 4, "head_width": 16,
            "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True,
        },
        "text_cfg": {**CLIP_TEXT, "pool_type": "last", "no_causal_mask": True},
    },
}  # fmt: skip


def family(name, *, seed=0, **changes):
    """A sibling with weights that move its features; ``changes`` replace parts of its config."""
    config = deepcopy(FAMILIES[name])
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    torch.manual_seed(seed)
    clip = assemble(config, None, name=name)
    with torch.no_grad():
        for parameter in clip.model.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn(parameter.shape) * 0.05)
    return clip
