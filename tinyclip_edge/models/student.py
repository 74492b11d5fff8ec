"""Create a student that fits its teacher, and initialise it with the teacher's weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance import (
    ClipShape,
    HeadWidths,
    InheritanceReport,
    InheritedUnits,
    inherit_uniform,
    plan_uniform,
)
from tinyclip_edge.inheritance.masked import END_POOLS
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.build import check_model_cfg
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.folder import read_config
from tinyclip_edge.models.importance import Calibration, importance_plan
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.positions import resize_positions
from tinyclip_edge.models.pruned import UNITS
from tinyclip_edge.models.sized_timm import SIZES, head_width, is_sized, timm_sizes
from tinyclip_edge.models.tokenization import (
    OPEN_CLIP_VOCABULARY,
    end_token_id,
    make_tokenizer,
    same_ids,
)
from tinyclip_edge.models.zoo import zoo_shape

PlanName: TypeAlias = Literal["published", "evenly", "importance"]
_TOKENIZER_KEYS = (
    "context_length",
    "vocab_size",
    "hf_tokenizer_name",
    "tokenizer_mode",
    "tokenizer_kwargs",
)
# Settings that a text tower with another tokenizer inherits; pooling and mask depend on the ids.
_TEXT_SIZES = (
    "context_length",
    "width",
    "layers",
    "heads",
    "mlp_ratio",
    "act_kwargs",
    "norm_kwargs",
)
# Settings of a student's image tower that leave it of a timm teacher's kind.
_TIMM_SIZE_KEYS = {*SIZES, "image_size"}
_TEACHER_ONLY = ("custom_text", "init_logit_bias")
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


def create_student(model: str | dict[str, Any], teacher: LoadedClip) -> LoadedClip:
    """Return a student with random weights (the caller seeds torch).

    ``model`` is a zoo name or an open_clip model_cfg; settings that it omits (image and patch
    size, vocabulary, context length, embedding, activation) are the teacher's, and so are
    preprocessing and tokenizer. A student with CLIP's vocabulary, or with a tokenizer that it
    names, is an ordinary CLIP with that one; factor and bias of a sigmoid are the
    teacher's. Raises ModelError.
    """
    if isinstance(model, str):
        name, overrides = model, zoo_shape(model).model_cfg
    else:
        name, overrides = "student", model
    teacher_cfg = _teacher_cfg(teacher)
    config = _complete(overrides, teacher_cfg, name)
    student_text = overrides.get("text_cfg", {})
    own_tokenizer = _has_own_tokenizer(student_text, teacher_cfg["text_cfg"])
    tokenizer_file = None if own_tokenizer else teacher.tokenizer_file
    if _needs_end(config["text_cfg"], teacher_cfg["text_cfg"], own_tokenizer=own_tokenizer):
        tokenizer = make_tokenizer(config, None, name) if own_tokenizer else teacher.tokenizer
        config["text_cfg"] |= _pooling(config["text_cfg"], end_token_id(tokenizer), name)
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


def zoo_config(name: str) -> dict[str, Any]:
    """Return the complete model_cfg of a zoo student.

    Starter students need the starter teacher's config: MissingExtraError without the kit.
    """
    entry = zoo_shape(name)
    if entry.kind == "published":
        return deepcopy(entry.model_cfg)
    from tinyclip_edge.starter import teacher_path

    return _complete(entry.model_cfg, read_config(Path(teacher_path()))["model_cfg"], name)


def _teacher_cfg(teacher: LoadedClip) -> dict[str, Any]:
    """Return a teacher's model_cfg; that of a tower from transformers has no vocabulary size."""
    config = deepcopy(teacher.config["model_cfg"])
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"].setdefault("vocab_size", teacher.vocabulary)
    return config


def _needs_end(student: dict[str, Any], teacher: dict[str, Any], *, own_tokenizer: bool) -> bool:
    """Whether a student's pooling must be found from its tokenizer.

    It is the teacher's where the towers are of one kind with one tokenizer, and at the highest id
    with CLIP's own.
    """
    if "hf_model_name" in student:
        return False
    if own_tokenizer:
        return bool(student.get("hf_tokenizer_name"))
    return "hf_model_name" in teacher


def _pooling(text: dict[str, Any], end: int | None, name: str) -> dict[str, Any]:
    """Return settings by which a text tower of open_clip reads up to the end of a text.

    It stays causal: a tower of open_clip without that mask attends to the padding, which those of
    transformers ignore, and an end token sees all words before it either way.
    """
    pool = text.get("pool_type", "eos")
    if pool == "eos":
        if "eos_id" in text:
            return {}
        if end is not None:
            return {"pool_type": "eos", "eos_id": end}
    elif pool != "argmax" or text.get("no_causal_mask") or end == text.get("vocab_size", 0) - 1:
        return {}
    fault = "pools at the highest id, which is not the end of its texts"
    if pool == "eos":
        fault = "cannot pool: its tokenizer ends texts with no token of their own"
    raise ModelError(
        f"{name}: a causal text tower {fault}; set text_cfg.pool_type: eos and eos_id, or "
        "vocab_size: 49408 for CLIP's own tokenizer"
    )


def _complete(overrides: dict[str, Any], teacher: dict[str, Any], name: str) -> dict[str, Any]:
    overrides = deepcopy(overrides)
    vision, text = overrides.pop("vision_cfg", {}), overrides.pop("text_cfg", {})
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise ModelError(f"{name}: vision_cfg and text_cfg must be tables")
    excluded = {"vision_cfg", "text_cfg"}
    if _has_own_tokenizer(text, teacher["text_cfg"]):
        excluded.update(_TEACHER_ONLY)
    if "hf_model_name" in teacher["text_cfg"] and "hf_model_name" not in text:
        excluded.add("custom_text")  # a text tower of open_clip's own needs it not
    config = {
        **{k: v for k, v in deepcopy(teacher).items() if k not in excluded},
        **overrides,
        "vision_cfg": {**_vision_base(teacher["vision_cfg"], vision), **vision},
        "text_cfg": {**_text_base(teacher["text_cfg"], text), **text},
    }
    tower = config["vision_cfg"]
    if "embed_dim" not in overrides and is_sized(config) and tower.get("timm_proj") == "none":
        config["embed_dim"] = tower["width"]  # such a tower's embedding is its channels
    check_model_cfg(config, name)
    return config


def _vision_base(teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """Return the teacher's vision settings where the student's tower is of the same kind."""
    if "timm_model_name" in teacher and not student.keys() - _TIMM_SIZE_KEYS:
        return _timm_base(teacher, student)
    timm = "timm_model_name" in teacher or "timm_model_name" in student
    layers = student.get("layers", teacher.get("layers", 12))
    same_kind = isinstance(layers, int) == isinstance(teacher.get("layers", 12), int)
    if same_kind and not timm:
        return deepcopy(teacher)
    return {"image_size": teacher["image_size"]} if "image_size" in teacher else {}


def _timm_base(teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """Return a timm teacher's vision settings, with all sizes where the student gives some."""
    name = teacher["timm_model_name"]
    usual = timm_sizes(name) if student.keys() & set(SIZES) else None
    if usual is None:
        sized = student.keys() & set(SIZES)
        return {k: v for k, v in teacher.items() if not sized or k == "image_size"}
    return {**{key: getattr(usual, key) for key in SIZES}, **deepcopy(teacher)}


def _has_own_tokenizer(student: dict[str, Any], teacher: dict[str, Any]) -> bool:
    """Whether a student's text settings name another tokenizer than its teacher has."""
    if "hf_tokenizer_name" in student:
        return bool(student["hf_tokenizer_name"] != teacher.get("hf_tokenizer_name"))
    return (
        student.get("vocab_size") == OPEN_CLIP_VOCABULARY
        and teacher.get("vocab_size", OPEN_CLIP_VOCABULARY) != OPEN_CLIP_VOCABULARY
    )


def _text_base(teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """Return the teacher's text settings, with the number of heads for the student's width."""
    own_tokenizer = _has_own_tokenizer(student, teacher)
    if "hf_model_name" in teacher or "hf_model_name" in student:
        keys = () if own_tokenizer else _TOKENIZER_KEYS
        return {key: deepcopy(teacher[key]) for key in keys if key in teacher}
    base = deepcopy(teacher)
    if own_tokenizer:
        base = {key: base[key] for key in _TEXT_SIZES if key in base}
    head_width = teacher.get("width", 512) // teacher.get("heads", 8)
    width = student.get("width")
    if isinstance(width, int) and "heads" not in student:
        base["heads"] = max(1, width // head_width)
    return base


def inherit_student(
    teacher: LoadedClip,
    student: LoadedClip,
    *,
    plan: PlanName = "published",
    calibration: Calibration | None = None,
    device: torch.device | None = None,
) -> InheritanceReport:
    """Initialise the student with selected weights of the teacher, in place.

    ``importance`` needs ``calibration``: pixels ``[N, 3, H, W]`` as the teacher takes them, and ids
    ``[N, L]``; it is measured on ``device`` (None: where the teacher is).

    Raises InheritanceError when activation, patch size or pooling differ, or when the
    student does not fit into the teacher. Another image size interpolates the positional embedding.
    """
    if UNITS in teacher.config:
        raise InheritanceError(
            f"{teacher.name} is pruned and its layers differ in size, so a uniform student cannot "
            "inherit from it; inherit from the model it was pruned from"
        )
    _check_agreement(teacher.config["model_cfg"], student.config["model_cfg"])
    _check_trunks(teacher, student)
    teacher_state, notes = resize_positions(teacher.model, student.model)
    student_state = student.model.state_dict()
    shapes = (
        ClipShape.of(teacher_state, head_widths(teacher)),
        ClipShape.of(student_state, head_widths(student)),
    )
    if not same_ids(teacher.tokenizer, student.tokenizer):
        # Rows of another tokenizer's ids are meaningless: the plan has no tokens.
        shapes = (shapes[0], replace(shapes[1], vocabulary=0))
        notes = (*notes, "token embedding not inherited: the student has another tokenizer")
    if plan != "importance":
        unit_plan = plan_uniform(*shapes, layers=plan)
    elif calibration is None:
        raise InheritanceError(
            "plan importance needs calibration pairs: give calibration=(pixels, ids), or choose "
            "the plan evenly"
        )
    else:
        unit_plan = importance_plan(teacher, shapes, calibration, device)
    weights, report = inherit_uniform(teacher_state, student_state, unit_plan, notes=notes)
    student.model.load_state_dict(weights)
    return replace(report, taken=InheritedUnits.by(unit_plan, shapes[0]))


def _check_agreement(teacher: dict[str, Any], student: dict[str, Any]) -> None:
    pairs = [
        (
            "activation",
            *("QuickGELU" if c.get("quick_gelu") else "GELU" for c in (teacher, student)),
        )
    ]
    for tower, kind, keys in (
        ("vision_cfg", open_clip.CLIPVisionCfg, _VISION_KEYS),
        ("text_cfg", open_clip.CLIPTextCfg, _TEXT_KEYS),
    ):
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


def _layers_of_trunk(clip: LoadedClip) -> list[tuple[str, str]]:
    """Return name, type and settings of each layer of timm's first block; none without one."""
    blocks: Any = getattr(getattr(clip.model.visual, "trunk", None), "blocks", None)
    if blocks is None:
        return []
    settings = ("eps", "approximate", "rotate_half")
    return [
        (f"blocks.0.{name}", " ".join([type(layer).__name__, *_stated(layer, settings)]))
        for name, layer in blocks[0].named_modules()
    ]


def _stated(layer: torch.nn.Module, names: tuple[str, ...]) -> list[str]:
    return [f"{name}={getattr(layer, name)}" for name in names if hasattr(layer, name)]


def head_widths(clip: LoadedClip) -> HeadWidths:
    """Return the widths of the attention heads of a CLIP, which its weights do not show."""
    vision, text = clip.config["model_cfg"]["vision_cfg"], clip.config["model_cfg"]["text_cfg"]
    widths = HeadWidths(
        image=vision.get("head_width", 64), text=text.get("width", 512) // text.get("heads", 8)
    )
    trunk: Any = getattr(clip.model.visual, "trunk", None)
    if hasattr(trunk, "blocks"):
        pool = getattr(trunk, "attn_pool", None)
        widths = replace(widths, image=head_width(trunk.blocks[0].attn))
        widths = widths if pool is None else replace(widths, pool=head_width(pool))
    return widths
