"""Slice a student's weights out of its teacher's, tensor by tensor, according to a plan."""

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
    """Return the student's weights after inheritance and the origin of each.

    Both are open_clip state dicts in any order and are not modified. The logit scale keeps the
    student's value. Raises InheritanceError for an unknown tensor.
    """
    weights: dict[str, Tensor] = {}
    origins: list[TensorOrigin] = []
    for key, fresh in student_state.items():
        if key in SHARED or (key == TOKENS and not plan.tokens):
            weights[key] = fresh.clone()
            owner: Tower = "shared" if key in SHARED else "text"
            origins.append(TensorOrigin(key, owner, "fresh", fresh.numel(), None))
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
    """Return the tower of a student tensor, its teacher key, and the indices of each axis."""
    image = plan.image
    if isinstance(image, ResNetPlan) and (resnet := resnet_source(key, image, plan.embed)):
        return "image", *resnet
    place = locate(key)
    tower_plan = plan.text if place is None or place.tower == "text" else image
    if place is None or isinstance(tower_plan, ResNetPlan):
        raise InheritanceError(f"there is no rule to inherit '{key}': not a plain CLIP tower")
    indices = {
        "embed": plan.embed,
        "tokens": plan.tokens,
        "channels": tower_plan.channels,
        "positions": tower_plan.positions,
    }
    source = key
    if place.layer is not None:
        indices.update(_layer_indices(tower_plan, place.layer))
        source = f"{place.blocks}{tower_plan.layers[place.layer]}.{place.name}"
    return place.tower, source, [indices[axis] if axis else None for axis in place.axes]


def _layer_indices(tower_plan: TowerPlan, layer: int) -> dict[str, Indices]:
    """Rows of in_proj (viewed as [3, heads, head_width]) and columns of out_proj, neurons."""
    attended = tuple(
        head * tower_plan.head_width + i
        for head in tower_plan.heads[layer]
        for i in range(tower_plan.head_width)
    )
    projection_rows = tower_plan.teacher_heads * tower_plan.head_width
    qkv = tuple(projection * projection_rows + row for projection in range(3) for row in attended)
    return {"attended": attended, "qkv": qkv, "neurons": tower_plan.neurons[layer]}


def _cut(tensor: Tensor, axes: list[Indices | None]) -> Tensor:
    result = tensor.detach()
    for axis, indices in enumerate(axes):
        if indices is None:
            continue
        if indices and indices == tuple(range(indices[0], indices[0] + len(indices))):
            # Consecutive indices are a view, so that large tables are copied once, at the end.
            result = result.narrow(axis, indices[0], len(indices))
        else:
            index = torch.tensor(indices, dtype=torch.long, device=tensor.device)
            result = result.index_select(axis, index)
    return result.clone(memory_format=torch.contiguous_format)
