"""Build networks and preprocessing from an untrusted open_clip config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from tinyclip_edge.errors import ModelError, did_you_mean, first_line
from tinyclip_edge.limits import is_count
from tinyclip_edge.models.coca import DECODER_CFG, two_towers
from tinyclip_edge.models.library import open_clip, quiet
from tinyclip_edge.models.references import check_references
from tinyclip_edge.models.sized_text import HF_CONFIG, build_text, check_text_config, has_own_text
from tinyclip_edge.models.sized_timm import build_sized, is_sized
from tinyclip_edge.models.sizes import check_sizes

PreprocessCfg = open_clip.transform.PreprocessCfg

# Built in place of towers that open_clip's configuration cannot describe.
_IMAGE_PLACEHOLDER = {"image_size": 1, "patch_size": 1, "width": 64, "layers": 1}
_TEXT_PLACEHOLDER = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
_BUILD_ERRORS = (
    TypeError,
    ValueError,
    RuntimeError,
    AssertionError,
    ArithmeticError,
    OSError,
    LookupError,
    AttributeError,
)


def build_model(model_cfg: dict[str, Any], source: str) -> nn.Module:
    """Return a randomly initialised open_clip model in eval mode. Raises ModelError."""
    check_model_cfg(model_cfg, source)
    model_cfg = two_towers(model_cfg)
    options = {key: value for key, value in model_cfg.items() if key != "custom_text"}
    vision, text = dict(model_cfg["vision_cfg"]), dict(model_cfg["text_cfg"])
    # A tower's default weights must not be downloaded: weights are loaded later, or stay random.
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    custom = model_cfg.get("custom_text") or "hf_model_name" in text
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    own_image, own_text = is_sized(model_cfg), has_own_text(model_cfg)
    try:
        with quiet():
            towers = {
                "vision_cfg": _IMAGE_PLACEHOLDER if own_image else vision,
                "text_cfg": _TEXT_PLACEHOLDER if own_text else text,
            }
            model: Any = kind(**{**options, **towers})
            if own_image:
                model.visual = build_sized(vision, model_cfg["embed_dim"])
            if own_text:
                model.text = build_text(text, model_cfg["embed_dim"])
                model.context_length = model.text.context_length
                model.vocab_size = model.text.vocab_size
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    except _BUILD_ERRORS as error:
        cause = first_line(error)
        raise ModelError(f"{source}: open_clip cannot build this model_cfg: {cause}") from error
    network: nn.Module = model.eval()
    return network


def check_model_cfg(model_cfg: object, source: str) -> None:
    """Refuse a model_cfg with missing, unknown or contradictory keys."""
    if not isinstance(model_cfg, dict):
        raise ModelError(f"{source}: model_cfg must be a table, not {type(model_cfg).__name__}")
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in model_cfg:
            raise ModelError(f"{source}: model_cfg has no '{key}'")
    allowed = set(inspect.signature(open_clip.CLIP).parameters) | {"custom_text", DECODER_CFG}
    _refuse_unknown(model_cfg, allowed - {"cast_dtype", "output_dict"}, f"{source}: model_cfg")
    for tower, kind in (
        ("vision_cfg", open_clip.CLIPVisionCfg),
        ("text_cfg", open_clip.CLIPTextCfg),
    ):
        if not isinstance(model_cfg[tower], dict):
            raise ModelError(f"{source}: model_cfg.{tower} must be a table")
        names = {field.name for field in fields(kind)}
        names |= {HF_CONFIG} if tower == "text_cfg" else set()
        _refuse_unknown(model_cfg[tower], names, f"{source}: model_cfg.{tower}")
    if not isinstance(model_cfg.get(DECODER_CFG, {}), dict):
        raise ModelError(f"{source}: model_cfg.{DECODER_CFG} must be a table")
    check_references(model_cfg, source)
    check_text_config(model_cfg["text_cfg"], source)
    check_sizes(model_cfg, source)
    _check_heads(model_cfg, source)


def _refuse_unknown(table: dict[str, Any], allowed: Iterable[str], table_name: str) -> None:
    names = set(allowed)
    for key in table:
        if key not in names:
            raise ModelError(f"{table_name} has an unknown key '{key}'{did_you_mean(key, names)}")


def _check_heads(model_cfg: dict[str, Any], source: str) -> None:
    """Refuse widths that do not divide into heads; open_clip would round the head count down."""
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    plain_vit = "timm_model_name" not in vision and isinstance(vision.get("layers", 12), int)
    width, head = vision.get("width", 768), vision.get("head_width", 64)
    if plain_vit and is_count(width) and is_count(head) and width % head:
        raise ModelError(
            f"{source}: vision_cfg.width {width} is not a multiple of head_width {head}"
        )
    width, heads = text.get("width", 512), text.get("heads", 8)
    if "hf_model_name" not in text and is_count(width) and is_count(heads) and width % heads:
        raise ModelError(f"{source}: text_cfg.width {width} does not split into {heads} heads")


def mlp_ratio(width: int, neurons: int) -> float:
    """Return the ratio from which open_clip, which rounds down, computes this many neurons."""
    ratio = neurons / width
    return ratio if int(width * ratio) == neurons else (neurons + 0.5) / width


def complete_preprocess_cfg(
    preprocess_cfg: object, model_cfg: dict[str, Any], source: str
) -> dict[str, Any]:
    """Return the preprocessing table, missing keys filled with open_clip's defaults (OpenAI's).

    Raises ModelError if it is not a table or has an unknown key.
    """
    settings = {} if preprocess_cfg is None else preprocess_cfg
    if not isinstance(settings, dict):
        raise ModelError(f"{source}: preprocess_cfg must be a table")
    names = {field.name for field in fields(PreprocessCfg)}
    _refuse_unknown(settings, names, f"{source}: preprocess_cfg")
    default = PreprocessCfg()
    table = {name: getattr(default, name) for name in names}
    table.update({key: value for key, value in settings.items() if value is not None})
    table["size"] = model_cfg["vision_cfg"].get("image_size", table["size"])
    for key in ("mean", "std"):
        table[key] = list(table[key]) if isinstance(table[key], (list, tuple)) else table[key]
    return dict(sorted(table.items()))


def build_preprocess(preprocess_cfg: dict[str, Any], source: str) -> Callable[..., Tensor]:
    """Return open_clip's evaluation transform: PIL image to float32 ``[3, H, W]``.

    Raises ModelError.
    """
    try:
        transform: Callable[..., Tensor] = open_clip.transform.image_transform_v2(
            PreprocessCfg(**preprocess_cfg), is_train=False
        )
    except _BUILD_ERRORS as error:
        values = {key: preprocess_cfg.get(key) for key in ("mode", "interpolation", "resize_mode")}
        raise ModelError(f"{source}: preprocess_cfg is not usable: {values}") from error
    return transform
