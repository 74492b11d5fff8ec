"""Settings that teacher and student must share for a copied weight to have the same effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.maskable import END_POOLS
from tinyclip_edge.inheritance.masked_fastvit import is_fastvit
from tinyclip_edge.inheritance.masked_pool import JOINED_POOL
from tinyclip_edge.inheritance.tower_kind import TowerName
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.sized_text import HF_CONFIG, fixed_settings, is_hf_text

_VISION_KEYS = (
    "patch_size",  # compared only between ResNets, which have none; a ViT's are resized
    "act_kwargs",
    "norm_kwargs",
    "pool_type",
    "final_ln_after_pool",
    "no_ln_pre",
    "attentional_pool",
)
_TEXT_KEYS = (
    "act_kwargs",
    "norm_kwargs",
    "pool_type",
    "final_ln_after_pool",
    "no_causal_mask",
    "embed_cls",
)


def check_agreement(
    teacher: dict[str, Any], student: dict[str, Any], towers: Sequence[TowerName]
) -> None:
    """Refuse inherited towers whose settings differ; both towers share one activation."""
    pairs = [
        (
            "activation",
            *("QuickGELU" if c.get("quick_gelu") else "GELU" for c in (teacher, student)),
        )
    ]
    settings: dict[TowerName, tuple[str, Any, tuple[str, ...]]] = {
        "image": ("vision_cfg", open_clip.CLIPVisionCfg, _VISION_KEYS),
        "text": ("text_cfg", open_clip.CLIPTextCfg, _TEXT_KEYS),
    }
    for tower, kind, keys in (settings[name] for name in towers):
        default = kind()
        in_one_stage = {isinstance(c[tower].get("layers", 12), int) for c in (teacher, student)}
        if len(in_one_stage) > 1:
            continue  # a ResNet and a ViT: the plan refuses them as such
        for key in keys:
            if key == "patch_size" and in_one_stage == {True}:
                continue
            values = [c[tower].get(key, getattr(default, key)) for c in (teacher, student)]
            if not (tower == "text_cfg" and all(value in END_POOLS for value in values)):
                pairs.append((f"{tower}.{key}", *values))
    for setting, teacher_value, student_value in pairs:
        if teacher_value != student_value:
            raise InheritanceError(
                f"{setting} differs: teacher {teacher_value}, student {student_value}; give the "
                "student the teacher's"
            )


def check_trunks(teacher: LoadedClip, student: LoadedClip) -> None:
    """Refuse timm blocks in which a copied weight would have a different effect."""
    layers = [_layers_of_trunk(clip) for clip in (teacher, student)]
    for (name, before), (_, after) in zip(*layers, strict=False):
        if before != after:
            raise InheritanceError(
                f"visual.trunk.{name} differs: teacher {before}, student {after}; give the student "
                "the teacher's timm model, in other sizes"
            )


def check_pools(teacher: LoadedClip, student: LoadedClip) -> None:
    """Refuse two attention pools if only one of them stores its weights in a single matrix."""
    joined = [JOINED_POOL in clip.model.state_dict() for clip in (teacher, student)]
    if joined[0] != joined[1]:
        owner = teacher if joined[0] else student
        raise InheritanceError(
            f"{owner.name}'s image tower is as wide as its embedding ({owner.embedding_dim}), so "
            "its attention pool has another form; give the student another width or embed_dim"
        )


def check_text_encoders(teacher: LoadedClip, student: LoadedClip) -> None:
    """Refuse transformers encoders in which a copied weight would have a different effect."""
    texts = [getattr(clip.model, "text", None) for clip in (teacher, student)]
    if not all(is_hf_text(text) for text in texts):
        return
    before, after = (fixed_settings(text) for text in texts)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise InheritanceError(
                f"text_cfg.{HF_CONFIG}.{name} differs: teacher {before.get(name)}, student "
                f"{after.get(name)}; give the student the teacher's"
            )


def _layers_of_trunk(clip: LoadedClip) -> list[tuple[str, str]]:
    """Return name, type and settings of each layer of a timm trunk's first block; [] without one.

    For a FastViT: of the first block of each stage, and of the layers between the stages.
    """
    trunk: Any = getattr(clip.model.visual, "trunk", None)
    parts: dict[str, torch.nn.Module] = {}
    if hasattr(trunk, "blocks"):
        parts["blocks.0"] = trunk.blocks[0]
    elif is_fastvit(trunk):
        parts |= {"stem": trunk.stem, "final_conv": trunk.final_conv}
        for number, stage in enumerate(trunk.stages):
            for name in ("downsample", "pos_emb", "blocks.0"):
                parts[f"stages.{number}.{name}"] = stage.get_submodule(name)
    settings = ("eps", "approximate", "rotate_half", "kernel_size", "stride")
    return [
        (f"{start}.{name}".rstrip("."), " ".join([type(layer).__name__, *_stated(layer, settings)]))
        for start, part in parts.items()
        for name, layer in part.named_modules()
    ]


def _stated(layer: torch.nn.Module, names: tuple[str, ...]) -> list[str]:
    return [f"{name}={getattr(layer, name)}" for name in names if hasattr(layer, name)]
