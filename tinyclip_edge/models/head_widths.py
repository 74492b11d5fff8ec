"""Widths of the attention heads of a CLIP, which its weights do not show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinyclip_edge.inheritance import HeadWidths
from tinyclip_edge.inheritance.masked_fastvit import is_fastvit
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.sized_fastvit import FastVitSizes
from tinyclip_edge.models.sized_text import head_width_of, is_hf_text
from tinyclip_edge.models.sized_timm import head_width


def head_widths(clip: LoadedClip) -> HeadWidths:
    """Return the widths of the attention heads of a CLIP."""
    vision, text = clip.config["model_cfg"]["vision_cfg"], clip.config["model_cfg"]["text_cfg"]
    widths = HeadWidths(
        image=vision.get("head_width", 64), text=text.get("width", 512) // text.get("heads", 8)
    )
    if vision.get("attentional_pool"):
        pool_heads = vision.get("attn_pooler_heads", 8)
        widths = replace(widths, pool=clip.embedding_dim // pool_heads)
    tower: Any = getattr(clip.model, "text", None)
    if is_hf_text(tower):
        widths = replace(widths, text=head_width_of(tower))
    trunk: Any = getattr(clip.model.visual, "trunk", None)
    if hasattr(trunk, "settings"):  # it was pruned
        settings = trunk.settings
        widths = replace(widths, image=settings.head_width, pool=settings.pool_head_width)
    elif hasattr(trunk, "blocks"):
        pool = getattr(trunk, "attn_pool", None)
        widths = replace(widths, image=head_width(trunk.blocks[0].attn))
        widths = widths if pool is None else replace(widths, pool=head_width(pool))
    elif is_fastvit(trunk):
        widths = replace(widths, image=FastVitSizes.of(trunk).head_width)
    return widths
