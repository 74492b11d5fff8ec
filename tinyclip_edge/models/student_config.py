"""Complete a student's configuration with its teacher's settings."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.tower_kind import TowerName
from tinyclip_edge.models.build import check_model_cfg
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.sized_fastvit import fastvit_sizes
from tinyclip_edge.models.sized_text import (
    HF_CONFIG,
    TEXT_SIZES,
    is_hf_text,
    read_text_config,
    student_text,
)
from tinyclip_edge.models.sized_timm import PATCH, SIZES, is_sized, pooled_width, timm_sizes
from tinyclip_edge.models.tokenization import OPEN_CLIP_VOCABULARY

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
# Settings with which a student's image tower remains of the same kind as its timm teacher's.
_TIMM_SIZE_KEYS = {*SIZES, PATCH, "image_size"}
# Settings with which its text tower remains a transformers encoder like its teacher's.
_HF_KEYS = {
    *TEXT_SIZES,
    *("context_length", "vocab_size", "hf_model_name", "hf_pooler_type", "hf_proj_type"),
}
_TEACHER_ONLY = ("custom_text", "init_logit_bias")


def teacher_cfg(teacher: LoadedClip) -> dict[str, Any]:
    """Return a teacher's model_cfg, including the sizes of a transformers text encoder."""
    config: dict[str, Any] = deepcopy(teacher.config["model_cfg"])
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"].setdefault("vocab_size", teacher.vocabulary)
    text: Any = getattr(teacher.model, "text", None)
    if is_hf_text(text):
        config["text_cfg"][HF_CONFIG] = read_text_config(text)
    return config


def without_tokenizer(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """Return a model_cfg that names neither a tokenizer nor any of its ids."""
    dropped = {*_TOKENIZER_KEYS, "eos_id", "pad_id"} - {"context_length"}
    text = {k: v for k, v in model_cfg.get("text_cfg", {}).items() if k not in dropped}
    return {**model_cfg, "text_cfg": text}


def needs_end(student: dict[str, Any], teacher: dict[str, Any], *, own_tokenizer: bool) -> bool:
    """Whether a student's pooling must be derived from its tokenizer.

    Otherwise it is the teacher's, if both towers have the same kind and tokenizer, or at the
    highest id, with CLIP's own tokenizer.
    """
    if "hf_model_name" in student:
        return False
    if student.get("pool_type") == "eos" and teacher.get("pool_type") != "eos":
        return True  # without an id open_clip looks for token 2, which texts may not have
    if own_tokenizer:
        return bool(student.get("hf_tokenizer_name"))
    return "hf_model_name" in teacher


def pooling_at_end(text: dict[str, Any], end: int | None, name: str) -> dict[str, Any]:
    """Return settings with which an open_clip text tower pools at the end of a text.

    It stays causal: without that mask, an open_clip tower attends to padding, which transformers'
    towers ignore; the end token sees all words before it either way. Raises ModelError for a tower
    that would pool elsewhere.
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
        fault = "cannot pool: its tokenizer has no token that ends texts only"
    raise ModelError(
        f"{name}: a causal text tower {fault}; set text_cfg.pool_type: eos and eos_id, or "
        "vocab_size: 49408 for CLIP's own tokenizer"
    )


def complete_cfg(overrides: dict[str, Any], teacher: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a student's model_cfg, completed from its teacher's. Raises ModelError."""
    overrides = deepcopy(overrides)
    vision, text = overrides.pop("vision_cfg", {}), overrides.pop("text_cfg", {})
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise ModelError(f"{name}: vision_cfg and text_cfg must be tables")
    excluded = {"vision_cfg", "text_cfg"}
    if has_own_tokenizer(text, teacher["text_cfg"]):
        excluded.update(_TEACHER_ONLY)
    if "hf_model_name" in teacher["text_cfg"] and "hf_model_name" not in text:
        excluded.add("custom_text")  # open_clip's own text tower does not need it
    config = {
        **{k: v for k, v in deepcopy(teacher).items() if k not in excluded},
        **overrides,
        "vision_cfg": {**_vision_base(teacher["vision_cfg"], vision), **vision},
        "text_cfg": _text_cfg(teacher["text_cfg"], text),
    }
    tower = config["vision_cfg"]
    if "embed_dim" not in overrides and is_sized(config) and tower.get("timm_proj") == "none":
        config["embed_dim"] = pooled_width(tower)  # its channels are the embedding
    width, heads = config["embed_dim"], tower.get("attn_pooler_heads", 8)
    if tower.get("attentional_pool") and "attn_pooler_heads" not in vision and type(width) is int:
        # Heads as wide as the teacher's, as many as fit.
        tower["attn_pooler_heads"] = max(1, width * heads // teacher["embed_dim"])
    check_model_cfg(config, name)
    return config


def with_whole_towers(
    config: dict[str, Any],
    overrides: dict[str, Any],
    teacher: dict[str, Any],
    towers: Collection[TowerName],
    name: str,
) -> dict[str, Any]:
    """Return a student's model_cfg in which these towers have all of its teacher's settings.

    Raises ModelError where the student's own settings contradict that.
    """
    whole = dict(config)
    for tower in towers:
        key = "vision_cfg" if tower == "image" else "text_cfg"
        if overrides.get(key):
            raise ModelError(
                f"{name}: {key} is given, but inherit.{tower}=frozen takes the teacher's tower; "
                "leave it out"
            )
        whole[key] = deepcopy(teacher[key])
        if config["embed_dim"] != teacher["embed_dim"]:
            raise ModelError(
                f"{name}: embed_dim {config['embed_dim']} is not the {teacher['embed_dim']} of the "
                f"frozen {tower} tower; leave embed_dim out, or set it to that"
            )
    return whole


def _vision_base(teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """Return the teacher's vision settings if the student's tower is of the same kind."""
    if "timm_model_name" in teacher and not student.keys() - _TIMM_SIZE_KEYS:
        return _timm_base(teacher, student)
    timm = "timm_model_name" in teacher or "timm_model_name" in student
    layers = student.get("layers", teacher.get("layers", 12))
    same_kind = isinstance(layers, int) == isinstance(teacher.get("layers", 12), int)
    if same_kind and not timm:
        return deepcopy(teacher)
    return {"image_size": teacher["image_size"]} if "image_size" in teacher else {}


def _timm_base(teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """Return a timm teacher's vision settings, with all of its sizes if the student sets any."""
    name = teacher["timm_model_name"]
    usual = None
    if student.keys() & {*SIZES, PATCH}:
        usual = timm_sizes(name) or fastvit_sizes(name)
    if usual is None:
        sized = student.keys() & {*SIZES, PATCH}
        return {k: v for k, v in teacher.items() if not sized or k == "image_size"}
    return {**{key: getattr(usual, key) for key in SIZES}, **deepcopy(teacher)}


def has_own_tokenizer(student: dict[str, Any], teacher: dict[str, Any]) -> bool:
    """Whether a student's text settings name a tokenizer other than its teacher's."""
    if "hf_tokenizer_name" in student:
        return bool(student["hf_tokenizer_name"] != teacher.get("hf_tokenizer_name"))
    return (
        student.get("vocab_size") == OPEN_CLIP_VOCABULARY
        and teacher.get("vocab_size", OPEN_CLIP_VOCABULARY) != OPEN_CLIP_VOCABULARY
    )


def _text_cfg(teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """Return a student's text settings: its own, and the teacher's if both are of one kind."""
    if (
        HF_CONFIG in teacher
        and student.get("hf_model_name", teacher["hf_model_name"]) == teacher["hf_model_name"]
        and not student.keys() - _HF_KEYS
        and not has_own_tokenizer(student, teacher)
    ):
        return student_text(deepcopy(teacher), student)
    text = {**_text_base(teacher, student), **student}
    if text.get("hf_model_name", "") is None:  # open_clip's own transformer, by request
        del text["hf_model_name"]
    return text


def _text_base(teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """Return the teacher's text settings, with the number of heads for the student's width."""
    own_tokenizer = has_own_tokenizer(student, teacher)
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
