"""Cut a student's weights out of its teacher's, tensor by tensor, as a plan says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inherit.plan import Indices, InheritancePlan, ResNetPlan, TowerPlan
from tinyclip_edge.inherit.report import (
    InheritanceReport,
    TensorOrigin,
    Tower,
    summarise,
)
from tinyclip_edge.inherit.resnet import resnet_source
from tinyclip_edge.inherit.shape import IMAGE_BLOCKS, TEXT_BLOCKS

FRESH = ("logit_scale", "logit_bias")

# What each axis of a tensor counts; None is an axis that is kept whole.
Axes: TypeAlias = "tuple[str | None, ...]"
_VECTOR: Axes = ("channels",)
_BLOCK_AXES: dict[str, Axes] = {
    "ln_1.weight": _VECTOR,
    "ln_1.bias": _VECTOR,
    "ln_2.weight": _VECTOR,
    "ln_2.bias": _VECTOR,
    "ls_1.gamma": _VECTOR,
    "ls_2.gamma": _VECTOR,
    "attn.in_proj_weight": ("qkv", "channels"),
    "attn.in_proj_bias": ("qkv",),
    "attn.out_proj.weight": ("channels", "attended"),
    "attn.out_proj.bias": _VECTOR,
    "mlp.c_fc.weight": ("neurons", "channels"),
    "mlp.c_fc.bias": ("neurons",),
    "mlp.c_proj.weight": ("channels", "neurons"),
    "mlp.c_proj.bias": _VECTOR,
}
_IMAGE_AXES: dict[str, Axes] = {
    "visual.class_embedding": _VECTOR,
    "visual.positional_embedding": ("positions", "channels"),
    "visual.conv1.weight": ("channels", None, None, None),
    "visual.ln_pre.weight": _VECTOR,
    "visual.ln_pre.bias": _VECTOR,
    "visual.ln_post.weight": _VECTOR,
    "visual.ln_post.bias": _VECTOR,
    "visual.proj": ("channels", "embed"),
}
_TEXT_AXES: dict[str, Axes] = {
    "token_embedding.weight": ("tokens", "channels"),
    "positional_embedding": ("positions", "channels"),
    "ln_final.weight": _VECTOR,
    "ln_final.bias": _VECTOR,
    "text_projection": ("channels", "embed"),
}


def inherit_uniform(
    teacher_state: Mapping[str, Tensor],
    student_state: Mapping[str, Tensor],
    plan: InheritancePlan,
    *,
    notes: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], InheritanceReport]:
    """Return the student's weights after inheritance, and where each came from.

    Both states are open_clip's; neither is changed, and key order plays no part. The logit scale
    keeps the student's value. Raises InheritanceError for a tensor that has no rule.
    """
    weights: dict[str, Tensor] = {}
    origins: list[TensorOrigin] = []
    for key, fresh in student_state.items():
        if key in FRESH:
            weights[key] = fresh.clone()
            origins.append(TensorOrigin(key, "shared", "fresh", fresh.numel(), None))
            continue
        tower, teacher_key, axes = _source(key, plan)
        if teacher_key not in teacher_state:
            raise InheritanceError(f"the teacher has no '{teacher_key}' for the student's '{key}'")
        source = teacher_state[teacher_key]
        weights[key] = _cut(source, axes).to(fresh.dtype).to(fresh.device)
        if weights[key].shape != fresh.shape:
            raise InheritanceError(
                f"'{key}' would be {list(weights[key].shape)}, the student has {list(fresh.shape)}"
            )
        origin = TensorOrigin(
            key,
            tower,
            "copied" if source.shape == fresh.shape else "sliced",
            fresh.numel(),
            teacher_key,
        )
        origins.append(origin)
    report = InheritanceReport(
        method=plan.method,
        image=summarise("image", plan.image.layers, origins),
        text=summarise("text", plan.text.layers, origins),
        shared=summarise("shared", (), origins),
        tensors=tuple(origins),
        notes=notes,
    )
    return weights, report


def _source(key: str, plan: InheritancePlan) -> tuple[Tower, str, list[Indices | None]]:
    """Return the tower of a student tensor, its teacher key, and what each axis keeps."""
    common = {"embed": plan.embed, "tokens": plan.tokens}
    towers: list[tuple[Tower, str, TowerPlan, dict[str, Axes]]] = [
        ("text", TEXT_BLOCKS, plan.text, _TEXT_AXES)
    ]
    if isinstance(plan.image, ResNetPlan):
        found = resnet_source(key, plan.image, plan.embed)
        if found is not None:
            return "image", *found
    else:
        towers.append(("image", IMAGE_BLOCKS, plan.image, _IMAGE_AXES))
    for tower, blocks, part, table in towers:
        kept = {**common, "channels": part.channels, "positions": part.positions}
        if key in table:
            return tower, key, [kept[a] if a else None for a in table[key]]
        number, _, suffix = key.removeprefix(blocks).partition(".")
        if key.startswith(blocks) and suffix in _BLOCK_AXES:
            layer = int(number)
            kept.update(_layer_indices(part, layer))
            axes = [kept[a] if a else None for a in _BLOCK_AXES[suffix]]
            return tower, f"{blocks}{part.layers[layer]}.{suffix}", axes
    raise InheritanceError(f"there is no rule to inherit '{key}': not a plain CLIP tower")


def _layer_indices(part: TowerPlan, layer: int) -> dict[str, Indices]:
    """Rows of in_proj (viewed as [3, heads, head_width]) and columns of out_proj, neurons."""
    attended = tuple(
        head * part.head_width + i for head in part.heads[layer] for i in range(part.head_width)
    )
    block = part.teacher_heads * part.head_width
    qkv = tuple(which * block + row for which in range(3) for row in attended)
    return {"attended": attended, "qkv": qkv, "neurons": part.neurons[layer]}


def _cut(tensor: Tensor, axes: list[Indices | None]) -> Tensor:
    result = tensor.detach()
    for axis, kept in enumerate(axes):
        if kept is None:
            continue
        if kept and kept == tuple(range(kept[0], kept[0] + len(kept))):
            # A run is a view: large tables are copied once, at the end.
            result = result.narrow(axis, kept[0], len(kept))
        else:
            index = torch.tensor(kept, dtype=torch.long, device=tensor.device)
            result = result.index_select(axis, index)
    return result.clone(memory_format=torch.contiguous_format)
