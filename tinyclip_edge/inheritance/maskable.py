"""Check which towers support masks, so that the masked output equals the pruned model's."""

from __future__ import annotations

from typing import Any, TypeAlias

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.encoder_settings import EncoderSettings, is_encoder
from tinyclip_edge.inheritance.masked_fastvit import is_fastvit
from tinyclip_edge.inheritance.masked_resnet import is_resnet
from tinyclip_edge.inheritance.masked_timm import TimmSettings
from tinyclip_edge.inheritance.text_part import text_part, text_setting
from tinyclip_edge.inheritance.units import UNMASKED

OpenClip: TypeAlias = Any  # a module of open_clip, or a block of ours with the same names
END_POOLS = ("argmax", "eos")  # pool at the end token: with a causal mask, texts may be trimmed
TEXT_POOLS = (*END_POOLS, "first", "last")


def check_maskable(model: OpenClip) -> None:
    """Raise InheritanceError for towers whose masked output would differ from the pruned one's."""
    visual: OpenClip = getattr(model, "visual", None)
    _check_image(visual)
    text = text_part(model)
    _check_text(text)
    image_blocks = visual.transformer.resblocks if hasattr(visual, "transformer") else ()
    text_blocks = () if is_encoder(text) else text.transformer.resblocks
    for block in (*image_blocks, *text_blocks):
        if not hasattr(block.attn, "out_proj") or hasattr(block, "ln_attn"):
            raise InheritanceError(
                f"{type(block).__name__} cannot be masked: leave block_type unset in model_cfg"
            )


def _check_image(visual: OpenClip) -> None:
    if hasattr(visual, "trunk"):
        if not is_fastvit(visual.trunk):
            TimmSettings.of(visual.trunk)
    elif is_resnet(visual):
        return
    elif not hasattr(visual, "conv1") or not hasattr(visual, "class_embedding"):
        raise InheritanceError(
            f"image tower {type(visual).__name__} cannot be masked: only ViTs of open_clip and "
            f"timm, ResNet and FastViT can; {UNMASKED}"
        )
    elif visual.pool_type not in ("tok", "avg"):
        raise InheritanceError(
            "an image tower without pooling, or with two attention pools, cannot be masked; "
            f"{UNMASKED}"
        )


def _check_text(text: OpenClip) -> None:
    if is_encoder(text):
        EncoderSettings.of(text)
        return
    if not hasattr(text, "token_embedding"):
        raise InheritanceError(
            f"text tower {type(text).__name__} cannot be masked: only encoders of transformers and "
            f"open_clip's own transformer can; {UNMASKED}"
        )
    if getattr(text, "cls_emb", None) is not None:  # it is pooled, whatever pool_type says
        return
    pool = text_setting(text, "pool_type")
    if pool not in TEXT_POOLS:
        raise InheritanceError(
            f"text tower with pool_type '{pool}' cannot be masked: only {', '.join(TEXT_POOLS)} can"
        )
