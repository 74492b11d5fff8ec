"""Find the text transformer in both forms of open_clip's models."""

from __future__ import annotations

from typing import Any, TypeAlias

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names


def text_part(model: OpenClip) -> OpenClip:
    """Return the module with the text transformer: a separate one in open_clip.CustomTextCLIP."""
    return getattr(model, "text", model)


def text_setting(text: OpenClip, key: str) -> OpenClip:
    """Return ``text_<key>`` of an open_clip.CLIP, or ``<key>`` of its TextTransformer."""
    return getattr(text, f"text_{key}", getattr(text, key, None))
