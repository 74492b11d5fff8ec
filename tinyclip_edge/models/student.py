"""Create a student that fits its teacher, and initialise it with the teacher's weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from tinyclip_edge.config.shrink import TowerMode
from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance import ClipShape, InheritanceReport, plan_uniform
from tinyclip_edge.inheritance.masked import END_POOLS
from tinyclip_edge.inheritance.masked_fastvit import is_fastvit
from tinyclip_edge.inheritance.planned import PlannedInheritance
from tinyclip_edge.inheritance.tower_kind import BOTH, TowerName
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.folder import read_config
from tinyclip_edge.models.head_widths import head_widths
from tinyclip_edge.models.importance import Calibration, importance_plan
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.positions import resize_positions, whole_state
from tinyclip_edge.models.pruned_units import UNITS
from tinyclip_edge.models.sized_text import HF_CONFIG, fixed_settings, is_hf_text
from tinyclip_edge.models.student_config import (
    complete_cfg,
    has_own_tokenizer,
    needs_end,
    pooling_at_end,
    teacher_cfg,
    with_whole_towers,
    without_tokenizer,
)
from tinyclip_edge.models.tokenization import (
    end_token_id,
    make_tokenizer,
    same_ids,
)
from tinyclip_edge.models.zoo import zoo_entry, zoo_shape

JOINED_POOL = "visual.attn_pool.attn.in_proj_weight"
PlanName: TypeAlias = Literal["published", "evenly", "importance"]
# Settings that must agree for a copied weight to have the same effect in the student.
_VISION_KEYS = (
    "patch_size",
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


def create_student(
    model: str | dict[str, Any],
    teacher: LoadedClip,
    *,
    own_tokens: bool = True,
    frozen: Collection[TowerName] = (),
) -> LoadedClip:
    """Return a student with random weights (the caller seeds torch).

    ``model`` is a zoo name or an open_clip model_cfg; settings that it omits (image and patch
    size, vocabulary, context length, embedding, activation) are the teacher's, and so are
    preprocessing and tokenizer. A student with CLIP's vocabulary, or with a tokenizer that it
    names, is an ordinary CLIP with that one, and so is one with ``hf_model_name: None`` whose
    teacher has a text encoder of transformers; without ``own_tokens`` it has the teacher's
    tokenizer whatever it names. Factor and bias of a sigmoid are the teacher's; ``frozen`` towers
    have its settings too, and ``model`` must leave them out. Raises ModelError.
    """
    name, overrides = _named_shape(model)
    if not own_tokens:
        overrides = without_tokenizer(overrides)
    theirs = teacher_cfg(teacher)
    config = complete_cfg(overrides, theirs, name)
    if frozen:
        config = with_whole_towers(config, overrides, theirs, frozen, name)
    student_text = overrides.get("text_cfg", {})
    own_tokenizer = has_own_tokenizer(student_text, theirs["text_cfg"])
    tokenizer_file = None if own_tokenizer else teacher.tokenizer_file
    text = config["text_cfg"]
    at_end = not own_tokens and "text" not in frozen and text.get("pool_type") == "eos"
    if at_end or needs_end(text, theirs["text_cfg"], own_tokenizer=own_tokenizer):
        tokenizer = make_tokenizer(config, None, name) if own_tokenizer else teacher.tokenizer
        text |= pooling_at_end(text, end_token_id(tokenizer), name)
    student = assemble(
        config, teacher.config["preprocess_cfg"], name=name, tokenizer_file=tokenizer_file
    )
    if student.logit_bias is not None and teacher.logit_bias is not None:
        _inherit_sigmoid(student, teacher)
    return student


@torch.no_grad()
def _inherit_sigmoid(student: LoadedClip, teacher: LoadedClip) -> None:
    """Give a student the factor and the bias by which its teacher judges a label."""
    for name in ("logit_scale", "logit_bias"):
        value = teacher.model.get_parameter(name).detach().reshape(-1)[0]
        student.model.get_parameter(name).fill_(value.item())


def names_own_tokenizer(model: str | dict[str, Any], teacher: LoadedClip) -> bool:
    """Whether a zoo name or model_cfg selects a tokenizer other than its teacher's."""
    if isinstance(model, str) and zoo_entry(model).stages:  # masks leave the teacher's
        return False
    text = _named_shape(model)[1].get("text_cfg", {})
    return has_own_tokenizer(text, teacher_cfg(teacher)["text_cfg"])


def _named_shape(model: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(model, str):
        return model, zoo_shape(model).model_cfg
    return "student", model


def zoo_config(name: str) -> dict[str, Any]:
    """Return the complete model_cfg of a zoo student.

    Starter students need the starter teacher's config: MissingExtraError without the kit.
    """
    entry = zoo_shape(name)
    if entry.kind == "published":
        return deepcopy(entry.model_cfg)
    from tinyclip_edge.starter import teacher_path

    return complete_cfg(entry.model_cfg, read_config(Path(teacher_path()))["model_cfg"], name)


def inherit_student(
    teacher: LoadedClip,
    student: LoadedClip,
    *,
    plan: PlanName = "published",
    calibration: Calibration | None = None,
    device: torch.device | None = None,
    modes: Mapping[TowerName, TowerMode] | None = None,
) -> InheritanceReport:
    """Initialise the student with selected weights of the teacher, in place; see plan_student."""
    inheritance = plan_student(
        teacher, student, plan=plan, calibration=calibration, device=device, modes=modes
    )
    weights, report = inheritance.select(student.model.state_dict())
    student.model.load_state_dict(weights)
    return report


def plan_student(
    teacher: LoadedClip,
    student: LoadedClip,
    *,
    plan: PlanName = "published",
    calibration: Calibration | None = None,
    device: torch.device | None = None,
    modes: Mapping[TowerName, TowerMode] | None = None,
) -> PlannedInheritance:
    """Plan which weights of the teacher the student inherits; neither is changed.

    ``importance`` needs ``calibration``: pixels ``[N, 3, H, W]`` as the teacher takes them, and ids
    ``[N, L]``; it is measured on ``device`` (None: where the teacher is). ``modes`` says which
    towers stay fresh, or become the teacher's, whatever their kind; the others are inherited.

    Raises InheritanceError when activation, patch size or pooling differ, or when the
    student does not fit into the teacher. Another image size interpolates the positional embedding.
    """
    if UNITS in teacher.config:
        raise InheritanceError(
            f"{teacher.name} is pruned and its layers differ in size, so a uniform student cannot "
            "inherit from it; inherit from the model it was pruned from"
        )
    modes = modes or {}
    frozen, fresh = (
        [tower for tower in BOTH if modes.get(tower) == mode] for mode in ("frozen", "fresh")
    )
    towers = [tower for tower in BOTH if tower not in (*frozen, *fresh)]
    _check_agreement(teacher.config["model_cfg"], student.config["model_cfg"], towers)
    if "image" in towers:
        _check_pools(teacher, student)
        teacher_state, notes = resize_positions(teacher.model, student.model)
    else:
        teacher_state, notes = whole_state(teacher.model), ()
    student_state = student.model.state_dict()
    shapes = (
        ClipShape.of(teacher_state, head_widths(teacher), towers=towers),
        ClipShape.of(student_state, head_widths(student), towers=towers),
    )
    if "image" in towers and shapes[0].image.kind == shapes[1].image.kind:
        _check_trunks(teacher, student)  # of other kinds, the plan names them
    if "text" in towers:
        _check_text_encoders(teacher, student)
    if "text" in towers and not same_ids(teacher.tokenizer, student.tokenizer):
        # Rows of another tokenizer's ids are meaningless: the plan has no tokens.
        shapes = (shapes[0], replace(shapes[1], vocabulary=0))
        notes = (*notes, "token embedding not inherited: the student has another tokenizer")
    notes = (*notes, *(f"the {tower} tower is the teacher's, and not trained" for tower in frozen))
    if not towers or plan != "importance":
        layers = "evenly" if plan == "importance" else plan
        unit_plan = plan_uniform(*shapes, layers=layers, towers=towers)
    elif calibration is None:
        raise InheritanceError(
            "plan importance needs calibration pairs: give calibration=(pixels, ids), or choose "
            "the plan evenly"
        )
    else:
        unit_plan = importance_plan(teacher, shapes, calibration, device, towers=towers)
    return PlannedInheritance(teacher_state, unit_plan, shapes[0], frozen, notes)


def _check_agreement(
    teacher: dict[str, Any], student: dict[str, Any], towers: Sequence[TowerName]
) -> None:
    """Refuse settings that differ, of inherited towers; the activation is that of both."""
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
        if len({isinstance(c[tower].get("layers", 12), int) for c in (teacher, student)}) > 1:
            continue  # a ResNet and a ViT: the plan refuses them by that name
        for key in keys:
            values = [c[tower].get(key, getattr(default, key)) for c in (teacher, student)]
            if not (tower == "text_cfg" and all(value in END_POOLS for value in values)):
                pairs.append((f"{tower}.{key}", *values))
    for setting, teacher_value, student_value in pairs:
        if teacher_value != student_value:
            raise InheritanceError(
                f"{setting} differs: teacher {teacher_value}, student {student_value}; give the "
                "student the teacher's"
            )


def _check_trunks(teacher: LoadedClip, student: LoadedClip) -> None:
    """Refuse blocks of timm in which a copied weight would have another effect."""
    layers = [_layers_of_trunk(clip) for clip in (teacher, student)]
    for (name, before), (_, after) in zip(*layers, strict=False):
        if before != after:
            raise InheritanceError(
                f"visual.trunk.{name} differs: teacher {before}, student {after}; give the student "
                "the teacher's timm model, in other sizes"
            )


def _check_pools(teacher: LoadedClip, student: LoadedClip) -> None:
    """Refuse an attention pool whose weights are in one matrix beside one where they are apart."""
    joined = [JOINED_POOL in clip.model.state_dict() for clip in (teacher, student)]
    if joined[0] != joined[1]:
        owner = teacher if joined[0] else student
        raise InheritanceError(
            f"{owner.name}'s image tower is as wide as its embedding ({owner.embedding_dim}), so "
            "its attention pool has another form; give the student another width or embed_dim"
        )


def _check_text_encoders(teacher: LoadedClip, student: LoadedClip) -> None:
    """Refuse encoders of transformers in which a copied weight would have another effect."""
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
    """Return name, type and settings of each layer of timm's first blocks; none without one.

    Of a FastViT: of the first block of each stage, and of what lies between the stages.
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
