"""Refuse names and options in a config that would make libraries read other files."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.library import open_clip, quiet
from tinyclip_edge.models.sized_text import HF_CONFIG

# Those of open_clip's own configurations; others would be passed on to transformers.
TOKENIZER_OPTIONS: dict[str, tuple[object, ...]] = {
    "clean": ("canonicalize", "lower", "whitespace"),
    "strip_sep_token": (True, False),
}
_TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


def check_references(model_cfg: dict[str, Any], source: str) -> None:
    """Raise ModelError for a tower or tokenizer that would be read from an untrusted place."""
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    timm_name = vision.get("timm_model_name")
    if timm_name is not None and not _matches(_TIMM_NAME, timm_name):
        raise ModelError(
            f"{source}: vision_cfg.timm_model_name {timm_name!r} must be a name of timm, "
            "not a path or repository"
        )
    tower = text.get("hf_model_name")
    # A described encoder is not fetched by its name.
    described = HF_CONFIG in text and _matches(_REPOSITORY, tower)
    if tower is not None and (
        not isinstance(tower, str)
        or (tower not in _shipped_towers() and not described)
        or Path(tower).exists()
    ):
        raise ModelError(
            f"{source}: text_cfg.hf_model_name {tower!r} is not a text tower of open_clip's "
            f"configurations ({', '.join(sorted(_shipped_towers()))})"
        )
    tokenizer = text.get("hf_tokenizer_name")
    if tokenizer and not _matches(_REPOSITORY, tokenizer):
        raise ModelError(
            f"{source}: text_cfg.hf_tokenizer_name {tokenizer!r} must be a repository name, "
            "not a path"
        )
    if text.get("tokenizer_mode") not in (None, "", "clips"):
        raise ModelError(f"{source}: text_cfg.tokenizer_mode must be 'clips' or absent")
    _check_tokenizer_options(text.get("tokenizer_kwargs"), source)


def _check_tokenizer_options(options: object, source: str) -> None:
    where = f"{source}: text_cfg.tokenizer_kwargs"
    if options is None:
        return
    if not isinstance(options, dict):
        raise ModelError(f"{where} must be a table")
    for key, value in options.items():
        if key not in TOKENIZER_OPTIONS:
            raise ModelError(
                f"{where}: {key!r} is not allowed, only {', '.join(TOKENIZER_OPTIONS)}"
            )
        allowed = TOKENIZER_OPTIONS[key]
        if not isinstance(value, type(allowed[0])) or value not in allowed:
            raise ModelError(f"{where}: {key} cannot be {value!r}")


def _matches(pattern: re.Pattern[str], name: object) -> bool:
    return isinstance(name, str) and pattern.fullmatch(name) is not None


@functools.cache
def _shipped_towers() -> frozenset[str]:
    with quiet():
        configs = [open_clip.get_model_config(name) for name in open_clip.list_models()]
    names = (config["text_cfg"].get("hf_model_name") for config in configs)
    return frozenset(name for name in names if name)
