"""CLIPModel's tensors under open_clip's names, and back: one table for both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.weights import listed, refuse_faults

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_TRANSPOSED = ("visual.proj", "text_projection")
_POSITION_IDS = ".embeddings.position_ids"  # a counter that older files carry along
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
    """Return open_clip's tensors for the keys of ``expected``; faults are listed in HF's names."""
    parts = {key: _counterparts(key) for key in expected}
    expected_names = {name for names in parts.values() for name in names}
    refuse_faults(
        source,
        missing=[name for name in expected_names if name not in weights],
        unknown=[n for n in weights if n not in expected_names and not n.endswith(_POSITION_IDS)],
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
        state[key] = tensor.t().contiguous() if transposed else tensor
    return state


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
    """Return CLIPModel's names of an open_clip tensor: q, k and v are separate there."""
    if key in _NAMES:
        return (_NAMES[key],)
    block = _BLOCK.fullmatch(key)
    if block is None:
        return ()
    tower = "vision_model" if block[1] else "text_model"
    layer = f"{tower}.encoder.layers.{block[2]}"
    if block[3] in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = block[3].removeprefix("attn.in_proj_")
        return tuple(f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv")
    module, _, kind = block[3].rpartition(".")
    return (f"{layer}.{_IN_BLOCK[module]}.{kind}",) if module in _IN_BLOCK else ()
