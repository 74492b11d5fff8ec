"""Rename tensors of CLIPModel and its relatives to open_clip's names, and CLIPModel's back."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.long_texts import plain_fg_clip
from tinyclip_edge.models.weights import listed, refuse_faults

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_TRANSPOSED = ("visual.proj", "text_projection")
_POSITION_IDS = ".embeddings.position_ids"  # a counter that older files carry along
_BERT_POOLER = "text_model.pooler."  # of ChineseCLIP, which does not use it
_NAMES = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
# SigLIP: an image tower of timm, a text tower with a prefix.
_SIGLIP_NAMES = {
    "visual.trunk.pos_embed": "vision_model.embeddings.position_embedding.weight",
    "visual.trunk.attn_pool.latent": "vision_model.head.probe",
    "text.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_bias": "logit_bias",
}
_ENCODER = "text.transformer."  # an encoder of transformers, under its own names
_ENCODER_NAMES = {
    "text.proj.weight": "text_projection.weight",
    "text.proj.norm.weight": "text_model.pre_LN.weight",
    "text.proj.norm.bias": "text_model.pre_LN.bias",
    "text.proj.linear.weight": "text_model.transformation.weight",
    "text.proj.linear.bias": "text_model.transformation.bias",
}
# AltCLIP's prefixes (the second is from transformers 5), and those of the other models.
_PREFIXES = {
    "text_model.roberta.": "text_model.",
    "vision_model.encoder.layer.": "vision_model.encoder.layers.",
}
_SIGLIP_LAYERS = {
    "visual.trunk.patch_embed.proj": ("vision_model.embeddings.patch_embedding",),
    "visual.trunk.norm": ("vision_model.post_layernorm",),
    "visual.trunk.attn_pool.q": ("vision_model.head.attention.q_proj",),
    "visual.trunk.attn_pool.kv": tuple(f"vision_model.head.attention.{p}_proj" for p in "kv"),
    "visual.trunk.attn_pool.proj": ("vision_model.head.attention.out_proj",),
    "visual.trunk.attn_pool.norm": ("vision_model.head.layernorm",),
    "visual.trunk.attn_pool.mlp.fc1": ("vision_model.head.mlp.fc1",),
    "visual.trunk.attn_pool.mlp.fc2": ("vision_model.head.mlp.fc2",),
    "text.token_embedding": ("text_model.embeddings.token_embedding",),
    "text.ln_final": ("text_model.final_layer_norm",),
    "text.text_projection": ("text_model.head",),
}
_TIMM_BLOCK = re.compile(r"visual\.trunk\.blocks\.(\d+)\.(.+)\.(weight|bias)")
_IN_TIMM_BLOCK = {
    "attn.qkv": tuple(f"self_attn.{part}_proj" for part in "qkv"),
    "attn.proj": ("self_attn.out_proj",),
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
_POOL_ATTENTION = "vision_model.head.attention."
_IN_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def from_huggingface(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Return open_clip's tensors for the keys of ``expected``; faults are listed by HF's names."""
    positions = expected.get("positional_embedding")
    weights = plain_fg_clip(weights, 0 if positions is None else len(positions), source)
    weights = _separated(weights)
    parts = {key: _counterparts(key) for key in expected}
    expected_names = {name for names in parts.values() for name in names}
    refuse_faults(
        source,
        missing=[name for name in expected_names if name not in weights],
        unknown=[
            name
            for name in weights
            if name not in expected_names
            and not name.endswith(_POSITION_IDS)
            and not name.startswith(_BERT_POOLER)
        ],
        misshapen=[
            f"{names[0]} {list(weights[names[0]].shape)}"
            for names in parts.values()
            if len(names) > 1
            and not _can_stack([weights[name] for name in names if name in weights])
        ],
    )
    state = {}
    for key, names in parts.items():
        tensor = torch.cat([weights[n] for n in names]) if len(names) > 1 else weights[names[0]]
        transposed = key in _TRANSPOSED and tensor.ndim == 2
        tensor = tensor.t().contiguous() if transposed else tensor
        state[key] = _arranged(tensor, key, expected[key])
    return state


def _separated(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under one set of names, an attention pool's query, key and value separate.

    AltCLIP's two text projections become one.
    """
    separated = {_usual_name(name): tensor for name, tensor in weights.items()}
    _join_projections(separated)
    for kind in ("weight", "bias"):
        joined = separated.pop(f"{_POOL_ATTENTION}in_proj_{kind}", None)
        if joined is not None and joined.ndim:
            for part, tensor in zip("qkv", joined.chunk(3), strict=False):
                separated[f"{_POOL_ATTENTION}{part}_proj.{kind}"] = tensor
    return separated


def _usual_name(name: str) -> str:
    for prefix, usual in _PREFIXES.items():
        if name.startswith(prefix):
            return usual + name.removeprefix(prefix)
    return name


def _join_projections(weights: dict[str, Tensor]) -> None:
    """Fold the projection after AltCLIP's ``transformation`` into it."""
    first = "text_model.transformation"
    names = (f"{first}.weight", f"{first}.bias", "text_projection.weight")
    if all(name in weights for name in names):
        weight, bias, last = (weights[name] for name in names)
        if last.ndim == weight.ndim == 2 and last.shape[1] == len(weight) == bias.numel():
            del weights["text_projection.weight"]
            weights[f"{first}.weight"], weights[f"{first}.bias"] = last @ weight, last @ bias


def _arranged(tensor: Tensor, key: str, expected: Tensor) -> Tensor:
    """Return a tensor with the axes of timm's towers, which SigLIP stores differently."""
    if tensor.numel() != expected.numel() or tensor.ndim == expected.ndim:
        return tensor
    if key == "visual.trunk.pos_embed":
        return tensor[None]
    if key == "visual.trunk.patch_embed.proj.weight":  # rows are pixels, then channels
        channels, height, width = expected.shape[1:]
        rows = tensor.reshape(-1, height, width, channels)
        return rows.permute(0, 3, 1, 2).contiguous()
    return tensor


def to_huggingface(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return CLIPModel's tensors of an open_clip state dict. Raises ModelError."""
    odd = [key for key in state if not _counterparts(key)]
    if odd:
        raise ModelError(f"{name} has no Hugging Face CLIPModel form: {listed('tensors', odd)}")
    out = {}
    for key, tensor in state.items():
        names = _counterparts(key)
        value = tensor.t() if key in _TRANSPOSED else tensor
        value = value.reshape(()) if key == "logit_scale" else value
        parts = value.chunk(len(names)) if len(names) > 1 else (value,)
        for target, part in zip(names, parts, strict=True):
            out[target] = part.detach().to("cpu", torch.float32).contiguous().clone()
    return out


def _can_stack(parts: list[Tensor]) -> bool:
    """Whether tensors can be stacked."""
    return all(part.ndim and part.shape == parts[0].shape for part in parts)


def _counterparts(key: str) -> tuple[str, ...]:
    """Return the Hugging Face names of an open_clip tensor: q, k and v are separate there."""
    names = _NAMES | _SIGLIP_NAMES | _ENCODER_NAMES
    if key in names:
        return (names[key],)
    layer_name, _, kind = key.rpartition(".")
    if layer_name in _SIGLIP_LAYERS:
        return tuple(f"{name}.{kind}" for name in _SIGLIP_LAYERS[layer_name])
    timm = _TIMM_BLOCK.fullmatch(key)
    if timm is not None:
        prefix = f"vision_model.encoder.layers.{timm[1]}"
        return tuple(f"{prefix}.{name}.{timm[3]}" for name in _IN_TIMM_BLOCK.get(timm[2], ()))
    block = _BLOCK.fullmatch(key.removeprefix("text."))
    if block is None:
        encoder = key.startswith(_ENCODER)
        return (f"text_model.{key.removeprefix(_ENCODER)}",) if encoder else ()
    tower = "vision_model" if block[1] else "text_model"
    layer = f"{tower}.encoder.layers.{block[2]}"
    if block[3] in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = block[3].removeprefix("attn.in_proj_")
        return tuple(f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv")
    module, _, kind = block[3].rpartition(".")
    return (f"{layer}.{_IN_BLOCK[module]}.{kind}",) if module in _IN_BLOCK else ()
