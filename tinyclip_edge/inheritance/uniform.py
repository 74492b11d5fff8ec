"""Cut a student's weights out of its teacher's, tensor by tensor, as a plan says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.axes import SHARED, TOKENS, locate
from tinyclip_edge.inheritance.plan import Indices, InheritancePlan, ResNetPlan, TowerPlan
from tinyclip_edge.inheritance.report import (
    InheritanceReport,
    TensorOrigin,
    Tower,
    summarise,
)
from tinyclip_edge.inheritance.resnet import resnet_source


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
        if key in SHARED or (key == TOKENS and not plan.tokens):
            weights[key] = fresh.clone()
            tower = "shared" if key in SHARED else "text"
            origins.append(TensorOrigin(key, tower, "fresh", fresh.numel(), None))
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
    image = plan.image
    if isinstance(image, ResNetPlan) and (found := resnet_source(key, image, plan.embed)):
        return "image", *found
    place = locate(key)
    part = plan.text if place is None or place.tower == "text" else image
    if place is None or isinstance(part, ResNetPlan):
        raise InheritanceError(f"there is no rule to inherit '{key}': not a plain CLIP tower")
    kept = {
        "embed": plan.embed,
        "tokens": plan.tokens,
        "channels": part.channels,
        "positions": part.positions,
    }
    source = key
    if place.layer is not None:
        kept.update(_layer_indices(part, place.layer))
        source = f"{place.blocks}{part.layers[place.layer]}.{place.name}"
    return place.tower, source, [kept[axis] if axis else None for axis in place.axes]


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
