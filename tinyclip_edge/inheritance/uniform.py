"""Slice a student's weights out of its teacher's, tensor by tensor, according to a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.plan_types import (
    Indices,
    InheritancePlan,
    ResNetPlan,
    StagedPlan,
    TowerPlan,
)
from tinyclip_edge.inheritance.report import (
    InheritanceReport,
    Origin,
    TensorOrigin,
    Tower,
    summarise,
)
from tinyclip_edge.inheritance.resnet import resnet_source
from tinyclip_edge.inheritance.tower_kind import SHARED, STACKED, Place, TowerName, split_key
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS


def inherit_uniform(
    teacher_state: Mapping[str, Tensor],
    student_state: Mapping[str, Tensor],
    plan: InheritancePlan,
    *,
    frozen: Collection[TowerName] = (),
    notes: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], InheritanceReport]:
    """Return the student's weights after inheritance and the origin of each.

    Both are open_clip state dicts in any order and are not modified. The logit scale keeps the
    student's value; ``frozen`` towers are the teacher's, whatever their kind. Raises
    InheritanceError for an unknown tensor, and a frozen one that differs in shape.
    """
    weights: dict[str, Tensor] = {}
    origins: list[TensorOrigin] = []
    for key, fresh in student_state.items():
        tower: Tower = "shared" if key in SHARED else split_key(key)[0]
        if tower in frozen:
            weights[key] = _whole(key, teacher_state, fresh)
            origins.append(TensorOrigin(key, tower, "frozen", fresh.numel(), key))
            continue
        source = None if tower == "shared" else _source(key, tower, plan)
        if source is None:
            weights[key] = fresh.clone()
            origins.append(TensorOrigin(key, tower, "fresh", fresh.numel(), None))
            continue
        teacher_key, axes = source
        if teacher_key not in teacher_state:
            raise InheritanceError(f"the teacher has no '{teacher_key}' for the student's '{key}'")
        tensor = teacher_state[teacher_key]
        weights[key] = take_units(tensor, axes).to(fresh.dtype).to(fresh.device)
        if weights[key].shape != fresh.shape:
            raise InheritanceError(
                f"'{key}' would be {list(weights[key].shape)}, the student has {list(fresh.shape)}"
            )
        how: Origin = "copied" if tensor.shape == fresh.shape else "sliced"
        origins.append(TensorOrigin(key, tower, how, fresh.numel(), teacher_key))
    report = InheritanceReport(
        method=plan.method,
        image=summarise("image", () if plan.image is None else plan.image.layers, origins),
        text=summarise("text", () if plan.text is None else plan.text.layers, origins),
        shared=summarise("shared", (), origins),
        tensors=tuple(origins),
        notes=notes,
    )
    return weights, report


def _whole(key: str, teacher_state: Mapping[str, Tensor], fresh: Tensor) -> Tensor:
    tensor = teacher_state.get(key)
    if tensor is None or tensor.shape != fresh.shape:
        size = "none" if tensor is None else str(list(tensor.shape))
        raise InheritanceError(
            f"'{key}' of a frozen tower is {list(fresh.shape)} in the student, {size} in the "
            "teacher; leave the tower's settings out of student.model"
        )
    return tensor.detach().to(fresh.device, fresh.dtype, copy=True)


def _source(
    key: str, tower: TowerName, plan: InheritancePlan
) -> tuple[str, list[Indices | None]] | None:
    """Return the teacher's key of a student tensor and the indices of each axis; None: fresh."""
    tower_plan = plan.image if tower == "image" else plan.text
    if tower_plan is None:
        return None
    if isinstance(tower_plan, ResNetPlan):
        if (resnet := resnet_source(key, tower_plan, plan.embed)) is not None:
            return resnet
        raise InheritanceError(f"there is no rule to inherit '{key}': not a plain ResNet tower")
    kind, (teacher_prefix, student_prefix) = TOWER_KINDS[tower_plan.kind], tower_plan.prefixes
    place = kind.locate(key, student_prefix)
    if place is None:
        raise InheritanceError(f"there is no rule to inherit '{key}' of a {kind.name} tower")
    if "tokens" in place.axes and not plan.tokens:
        return None
    source = key.removeprefix(student_prefix)
    if isinstance(tower_plan, StagedPlan):
        indices = _staged_indices(tower_plan, plan, place)
        if place.stage is not None and place.layer is not None:
            block = tower_plan.parts[place.stage].blocks[place.layer]
            source = f"{kind.stages}{place.stage}.{kind.blocks}{block}.{place.name}"
    else:
        indices = axis_units(tower_plan, plan, place.layer)
        if place.layer is not None:
            layer = 0 if place.name == kind.shared else tower_plan.layers[place.layer]
            source = f"{kind.blocks}{layer}.{place.name}"
    return teacher_prefix + source, [indices[axis] if axis else None for axis in place.axes]


def axis_units(
    tower_plan: TowerPlan, plan: InheritancePlan, layer: int | None
) -> dict[str, Indices]:
    """Return the teacher's indices of each axis; ``layer``: also those of a student layer."""
    pooled = _stacked(tower_plan.pool_heads, tower_plan.pool_head_width)
    pool_rows = tower_plan.teacher_pool_heads * tower_plan.pool_head_width
    indices = {
        "embed": plan.embed,
        "tokens": plan.tokens,
        "channels": tower_plan.channels,
        "pooled": tower_plan.channels,
        "positions": tower_plan.positions,
        "bottleneck": tower_plan.bottleneck,
        "pool_attended": pooled,
        "pool_kv": _copies(pooled, pool_rows, "pool_kv"),
        "pool_qkv": _copies(pooled, pool_rows, "pool_qkv"),
        "pool_neurons": tower_plan.pool_neurons,
        "heads": tower_plan.heads[layer or 0],
    }
    if layer is not None:
        attended = _stacked(tower_plan.heads[layer], tower_plan.head_width)
        rows = tower_plan.teacher_heads * tower_plan.head_width
        indices["attended"] = attended
        indices["qkv"] = _copies(attended, rows, "qkv")
        indices["neurons"] = tower_plan.neurons[layer]
    return indices


def _staged_indices(
    tower_plan: StagedPlan, plan: InheritancePlan, place: Place
) -> dict[str, Indices]:
    """Return the teacher's indices of each axis at a place of a tower in stages."""
    indices = {
        "embed": plan.embed,
        "stem": tower_plan.parts[0].channels,
        "final": tower_plan.final,
        "final_squeezed": tower_plan.final_squeezed,
        "bottleneck": tower_plan.bottleneck,
    }
    if place.stage is not None:
        part, width = tower_plan.parts[place.stage], tower_plan.head_width
        indices |= {"channels": part.channels, "squeezed": part.squeezed}
        if place.layer is not None:
            attended = _stacked(part.heads[place.layer], width)
            indices["attended"] = attended
            indices["qkv"] = _copies(attended, part.teacher_heads * width, "qkv")
            indices["neurons"] = part.neurons[place.layer]
    return indices


def _stacked(heads: Indices, head_width: int) -> Indices:
    """Return the indices of the units of heads."""
    return tuple(head * head_width + unit for head in heads for unit in range(head_width))


def _copies(indices: Indices, length: int, axis: str) -> Indices:
    """Return the indices in each of the copies that an axis stacks, each ``length`` long."""
    copies = STACKED[axis][1]
    return tuple(copy * length + index for copy in range(copies) for index in indices)


def take_units(tensor: Tensor, axes: list[Indices | None]) -> Tensor:
    """Return a copy with the units that ``axes`` lists for each axis, in that order; None: all."""
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
