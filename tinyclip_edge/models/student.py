"""Make a student that fits its teacher, and let it take over the teacher's weights."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor

from tinyclip_edge.errors import InheritanceError, ModelError, did_you_mean
from tinyclip_edge.inherit import (
    ClipShape,
    InheritanceReport,
    LayerChoice,
    inherit_uniform,
    plan_uniform,
)
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.build import check_model_cfg
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.folder import read_config
from tinyclip_edge.models.library import open_clip, quiet
from tinyclip_edge.models.zoo import ZOO

_TOKENIZER_KEYS = (
    "context_length",
    "vocab_size",
    "hf_tokenizer_name",
    "tokenizer_mode",
    "tokenizer_kwargs",
)
# What must agree for a copied weight to mean the same in the student.
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
_POSITIONS = "visual.positional_embedding"


def create_student(model: str | dict[str, Any], teacher: LoadedClip) -> LoadedClip:
    """Return a student with random weights (the caller seeds torch).

    ``model`` is a zoo name or an open_clip model_cfg; whatever it does not give (image and patch
    size, vocabulary, context length, embedding, activation) is the teacher's, and so are
    preprocessing and tokenizer. Raises ModelError.
    """
    if isinstance(model, str):
        if model not in ZOO:
            raise ModelError(f"no student '{model}' in the zoo{did_you_mean(model, ZOO)}")
        name, given = model, ZOO[model].model_cfg
    else:
        name, given = "student", model
    return assemble(
        _complete(given, teacher.config["model_cfg"], name),
        teacher.config["preprocess_cfg"],
        name=name,
        tokenizer_file=teacher.tokenizer_file,
    )


def zoo_config(name: str) -> dict[str, Any]:
    """Return the whole model_cfg of a zoo student.

    Starter students need the starter teacher's config; ModelError when it is not installed.
    """
    entry = ZOO[name]
    if entry.kind == "published":
        return deepcopy(entry.model_cfg)
    from tinyclip_edge.starter import teacher_path

    return _complete(entry.model_cfg, read_config(Path(teacher_path()))["model_cfg"], name)


def _complete(given: dict[str, Any], teacher: dict[str, Any], name: str) -> dict[str, Any]:
    given = deepcopy(given)
    vision, text = given.pop("vision_cfg", {}), given.pop("text_cfg", {})
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise ModelError(f"{name}: vision_cfg and text_cfg must be tables")
    config = {
        **{k: v for k, v in deepcopy(teacher).items() if k not in ("vision_cfg", "text_cfg")},
        **given,
        "vision_cfg": {**_vision_base(teacher["vision_cfg"], vision), **vision},
        "text_cfg": {**_text_base(teacher["text_cfg"], text), **text},
    }
    check_model_cfg(config, name)
    return config


def _vision_base(teacher: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the teacher's vision settings where the student's tower is of the same kind."""
    timm = "timm_model_name" in teacher or "timm_model_name" in given
    layers = given.get("layers", teacher.get("layers", 12))
    same_kind = isinstance(layers, int) == isinstance(teacher.get("layers", 12), int)
    if same_kind and not timm:
        return deepcopy(teacher)
    return {"image_size": teacher["image_size"]} if "image_size" in teacher else {}


def _text_base(teacher: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the teacher's text settings, with as many heads as the student's width holds."""
    if "hf_model_name" in teacher or "hf_model_name" in given:
        return {key: deepcopy(teacher[key]) for key in _TOKENIZER_KEYS if key in teacher}
    base = deepcopy(teacher)
    head_width = teacher.get("width", 512) // teacher.get("heads", 8)
    width = given.get("width")
    if isinstance(width, int) and "heads" not in given:
        base["heads"] = max(1, width // head_width)
    return base


def inherit_student(
    teacher: LoadedClip, student: LoadedClip, *, layers: LayerChoice = "published"
) -> InheritanceReport:
    """Fill the student with uniformly chosen weights of the teacher, in place.

    Raises InheritanceError when activation, patch size or pooling differ, or when the student
    does not fit into the teacher. Another image size interpolates the positional embedding.
    """
    _check_agreement(teacher.config["model_cfg"], student.config["model_cfg"])
    teacher_state = teacher.model.state_dict()
    student_state = student.model.state_dict()
    notes = _resize_positions(teacher_state, student)
    plan = plan_uniform(
        ClipShape.of(teacher_state, **_head_widths(teacher)),
        ClipShape.of(student_state, **_head_widths(student)),
        layers=layers,
    )
    weights, report = inherit_uniform(teacher_state, student_state, plan, notes=notes)
    student.model.load_state_dict(weights)
    return report


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
            values = (c[tower].get(key, getattr(default, key)) for c in (teacher, student))
            pairs.append((f"{tower}.{key}", *values))
    for what, ours, theirs in pairs:
        if ours != theirs:
            raise InheritanceError(
                f"{what} differs: teacher {ours}, student {theirs}; give the student the teacher's"
            )


def _head_widths(clip: LoadedClip) -> dict[str, int]:
    vision, text = clip.config["model_cfg"]["vision_cfg"], clip.config["model_cfg"]["text_cfg"]
    return {
        "head_width": vision.get("head_width", 64),
        "text_head_width": text.get("width", 512) // text.get("heads", 8),
    }


def _resize_positions(teacher_state: dict[str, Tensor], student: LoadedClip) -> tuple[str, ...]:
    """Interpolate the teacher's image positions to the student's grid; return what was done."""
    before = teacher_state.get(_POSITIONS)
    if before is None:
        return ()
    with quiet():
        open_clip.model.resize_pos_embed(teacher_state, student.model)
    after = teacher_state[_POSITIONS]
    if after.shape == before.shape:
        return ()
    return (f"{_POSITIONS} interpolated from {len(before)} to {len(after)} positions",)
