"""Map each tensor of a ResNet image tower to its teacher tensor and the indices to slice."""

from __future__ import annotations

import re

from tinyclip_edge.inheritance.plan_types import Indices, ResNetPlan

POOL = "visual.attnpool."
# Tensors of a BatchNorm, and whether they have one value per channel.
_NORM = {
    "weight": True,
    "bias": True,
    "running_mean": True,
    "running_var": True,
    "num_batches_tracked": False,
}
_STEM = re.compile(r"visual\.(conv|bn)([123])\.(\w+)")
_BLOCK = re.compile(r"visual\.layer([1-4])\.(\d+)\.(.+)")
_POOLED = re.compile(r"([qkv])_proj\.(weight|bias)")


def resnet_source(
    key: str, plan: ResNetPlan, embed: Indices
) -> tuple[str, list[Indices | None]] | None:
    """Return the teacher's key and the indices of the leading axes; None for an unknown tensor.

    Trailing axes that are not listed are copied whole.
    """
    if stem := _STEM.fullmatch(key):
        kind, number, suffix = stem[1], int(stem[2]) - 1, stem[3]
        outputs = plan.stem[number]
        if kind == "bn":
            return _with_key(key, _norm(suffix, outputs))
        if suffix == "weight":
            return key, [outputs, plan.stem[number - 1] if number else None]
    elif block := _BLOCK.fullmatch(key):
        stage, number = int(block[1]) - 1, int(block[2])
        axes = _block_axes(block[3], plan, stage, number)
        teacher_block = plan.stages[stage][number]
        return _with_key(f"visual.layer{stage + 1}.{teacher_block}.{block[3]}", axes)
    elif key.startswith(POOL):
        return _with_key(key, _pool_axes(key.removeprefix(POOL), plan, embed))
    return None


def _block_axes(name: str, plan: ResNetPlan, stage: int, block: int) -> list[Indices | None] | None:
    (reduced, convolved), outer = plan.inner[stage][block], plan.outer[stage]
    incoming = outer
    if block == 0:
        incoming = plan.outer[stage - 1] if stage else plan.stem[-1]
    convolutions: dict[str, list[Indices | None]] = {
        "conv1.weight": [reduced, incoming],
        "conv2.weight": [convolved, reduced],
        "conv3.weight": [outer, convolved],
        "downsample.0.weight": [outer, incoming],
    }
    if name in convolutions:
        return convolutions[name]
    norm, _, suffix = name.rpartition(".")
    norms = {"bn1": reduced, "bn2": convolved, "bn3": outer, "downsample.1": outer}
    return _norm(suffix, norms[norm]) if norm in norms else None


def _norm(suffix: str, channels: Indices) -> list[Indices | None] | None:
    if suffix not in _NORM:
        return None
    return [channels] if _NORM[suffix] else []


def _pool_axes(name: str, plan: ResNetPlan, embed: Indices) -> list[Indices | None] | None:
    channels = plan.outer[-1]
    attended = tuple(
        head * plan.head_width + i for head in plan.heads for i in range(plan.head_width)
    )
    if name == "positional_embedding":
        return [plan.positions, channels]
    if name == "c_proj.weight":
        return [embed, attended]
    if name == "c_proj.bias":
        return [embed]
    pooled = _POOLED.fullmatch(name)
    if pooled is None:
        return None
    return [attended, channels] if pooled[2] == "weight" else [attended]


def _with_key(
    key: str, axes: list[Indices | None] | None
) -> tuple[str, list[Indices | None]] | None:
    return None if axes is None else (key, axes)
