"""Choose the exportable form of a model's towers, or raise an error that names the tower."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from tinyclip_edge.errors import ConfigError, ModelError
from tinyclip_edge.inheritance.text_part import text_part, text_setting
from tinyclip_edge.models.tokenization import pad_token_id
from tinyclip_export.layout import InputForm
from tinyclip_export.towers.blocks import OpenClip
from tinyclip_export.towers.encoder_text import EncoderTextTower, is_encoder_text
from tinyclip_export.towers.fixed_length_text import (
    POOLS,
    FixedLengthTextTower,
    has_class_token,
)
from tinyclip_export.towers.resnet import ResNetTower
from tinyclip_export.towers.timm import TimmTower
from tinyclip_export.towers.vit import ImageTower, TextTower

if TYPE_CHECKING:
    from torch import Tensor

    from tinyclip_edge.models import LoadedClip

AnyImageTower: TypeAlias = ImageTower | ResNetTower | TimmTower
AnyTextTower: TypeAlias = TextTower | FixedLengthTextTower | EncoderTextTower

_IMAGES = "open_clip's ViT, its ModifiedResNet and image towers of timm are supported"
_TEXTS = (
    "open_clip's own text transformers are supported, and RoBERTa, BERT, mT5 and M2M-100 encoders "
    "that pool their mean or first token"
)


def image_tower(model: OpenClip, *, plain: bool = False) -> AnyImageTower:
    """Return the exportable image tower of an open_clip model. Raises ModelError.

    ``plain``: a ViT in operators that all engines have.
    """
    visual = model.visual
    if hasattr(visual, "trunk") and hasattr(visual, "head"):
        return TimmTower(model)
    if hasattr(visual, "attnpool") and hasattr(visual, "layer4"):
        return ResNetTower(model)
    if hasattr(visual, "conv1") and hasattr(visual, "class_embedding"):
        return ImageTower(model, plain=plain)
    raise ModelError(f"image tower {type(visual).__name__} cannot be exported: {_IMAGES}")


def text_tower(
    model: OpenClip, example: Tensor | None = None, *, plain: bool = False
) -> AnyTextTower:
    """Return the exportable text tower of an open_clip model. Raises ModelError.

    `example` is a text ``[L]`` that its tokenizer has padded; without one, CLIP's ids are assumed.
    ``plain``: a causal tower in operators that all engines have.
    """
    text = text_part(model)
    if is_encoder_text(text):
        return EncoderTextTower(text, example)
    name = type(text).__name__
    if not hasattr(text, "token_embedding") or not hasattr(text, "transformer"):
        model_type = getattr(getattr(text, "config", None), "model_type", "")
        kind = f"{name} ({model_type})" if model_type else name
        raise ModelError(f"text tower {kind} cannot be exported: {_TEXTS}")
    if getattr(text, "use_pad_mask", False) and not has_class_token(text):
        raise ModelError(f"text tower {name} with a padding mask cannot be exported: {_TEXTS}")
    pool = "last" if has_class_token(text) else text_setting(text, "pool_type")
    if pool not in POOLS:
        raise ModelError(
            f"text tower {name} with pool_type '{pool}' cannot be exported: "
            f"use {', '.join(POOLS)} in text_cfg"
        )
    pools_at_end = text.attn_mask is not None and pool in ("argmax", "eos")
    if pools_at_end:
        return TextTower(model, example, plain=plain)
    return FixedLengthTextTower(model, example)


def input_form(
    clip: LoadedClip,
    text: AnyTextTower,
    static_batch: int | None,
    *,
    ids: str = "int64",
    plain: bool = False,
) -> InputForm:
    """Return the form of the towers' inputs; a fixed batch also fixes the length of texts.

    Raises ConfigError for a batch size below 1.
    """
    if static_batch is not None and static_batch < 1:
        raise ConfigError(f"static batch {static_batch} must be 1 or more")
    # A tower without an end id pools at the highest id, which need not be the end of text with
    # tokenizers other than CLIP's.
    unknown_end = hasattr(clip.tokenizer, "strip_sep_token") and getattr(text, "eot_id", 0) is None
    pad_id = pad_token_id(clip.tokenizer)
    # Towers whose output depends on padding, or that do not know the tokenizer's padding id.
    reads_padding = isinstance(text, FixedLengthTextTower) or (
        isinstance(text, EncoderTextTower) and text.pad_id != pad_id
    )
    padded = static_batch is not None or reads_padding or unknown_end
    return InputForm(static_batch, padded, pad_id, ids, plain)
