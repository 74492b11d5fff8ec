"""The starter teacher: its open_clip configuration, trimmed text encoding, and export."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 256, "layers": 6, "head_width": 64},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 0,  # the tokenizer's
        "width": 256,
        "heads": 4,
        "layers": 3,
        "hf_tokenizer_name": "tokenizer.json",  # any name: open_clip reads the model's own folder
        "tokenizer_kwargs": {"strip_sep_token": True},  # its padding token becomes id 0
    },
}
MEAN = STD = (0.5, 0.5, 0.5)
PREPROCESS_CONFIG = {
    "size": [64, 64],
    "mode": "RGB",
    "mean": list(MEAN),
    "std": list(STD),
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def model_config(vocab_size: int) -> dict[str, Any]:
    """The ``model_cfg`` of open_clip_config.json."""
    return {**MODEL_CONFIG, "text_cfg": {**MODEL_CONFIG["text_cfg"], "vocab_size": vocab_size}}


def new_model(vocab_size: int) -> Any:  # noqa: ANN401 - open_clip's CLIP is untyped
    """Randomly initialised open_clip CLIP in float32."""
    from open_clip.model import CLIP

    config = model_config(vocab_size)
    text = {k: v for k, v in config["text_cfg"].items() if "tokenizer" not in k}
    return CLIP(config["embed_dim"], config["vision_cfg"], text)


def encode_text(model: Any, ids: Tensor) -> Tensor:  # noqa: ANN401
    """Unit-norm text embeddings [B, 256] of ids [B, L], L up to the context length.

    The result is that of open_clip's method, whose mask and positions need the full context.
    """
    length = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    ends = model.ln_final(x[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)])
    return F.normalize(ends @ model.text_projection, dim=-1)


def encode_text_by_length(model: Any, ids: Tensor) -> Tensor:  # noqa: ANN401
    """Text embeddings [B, 256] of ids [B, L]; to save time, the shorter half is trimmed further."""
    lengths = ids.argmax(dim=-1) + 1
    order = lengths.argsort()
    parts = [encode_text(model, ids[half, : int(lengths[half].max())]) for half in order.chunk(2)]
    return torch.cat(parts)[order.argsort()]


def encode_image(model: Any, images: Tensor) -> Tensor:  # noqa: ANN401
    """Unit-norm image embeddings [B, 256] of normalised pictures [B, 3, 64, 64]."""
    return F.normalize(model.visual(images), dim=-1)


@contextlib.contextmanager
def layer_drop(
    transformer: Any,  # noqa: ANN401 - open_clip's Transformer is untyped
    share: float,
    rng: random.Random,
) -> Iterator[None]:
    """Drop each block with probability ``share``, but keep at least one (LayerDrop, 1909.11556)."""
    blocks = transformer.resblocks
    remaining = [block for block in blocks if rng.random() >= share]
    transformer.resblocks = nn.ModuleList(remaining or [rng.choice(list(blocks))])
    try:
        yield
    finally:
        transformer.resblocks = blocks


def normalise(rgb: Tensor) -> Tensor:
    """uint8 pictures [B, 3, 64, 64] to the model's input range."""
    return rgb.float().div_(127.5).sub_(1.0)


def export(state: dict[str, Tensor], out: Path, vocab_size: int) -> None:
    """Write open_clip's local-dir layout: configuration and fp16 weights."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    half = {
        k: v.detach().half().contiguous() if v.is_floating_point() else v for k, v in state.items()
    }
    partial = out / "open_clip_model.safetensors.part"
    save_file(half, str(partial), metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors writes files readable by the owner only
    partial.replace(out / "open_clip_model.safetensors")
    config = {"model_cfg": model_config(vocab_size), "preprocess_cfg": PREPROCESS_CONFIG}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
