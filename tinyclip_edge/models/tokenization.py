"""Choose the tokenizer that belongs to a model: its own tokenizer.json, or open_clip's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.library import open_clip, quiet
from tinyclip_edge.runtime.tokenizer import ClipTokenizer

TOKENIZER = "tokenizer.json"
OPEN_CLIP_VOCABULARY = 49408  # tokens of the byte-pair file that open_clip carries


class FileTokenizer:
    """Torch side of the runtime tokenizer: texts to int64 ``[N, context_length]``."""

    def __init__(self, tokenizer: ClipTokenizer) -> None:
        self._tokenizer = tokenizer
        self.context_length = tokenizer.context_length
        self.eot_token_id = tokenizer.eot_token_id

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> Tensor:
        """Return the ids, zeros after the end token; another length as in open_clip's own."""
        tokenizer = self._tokenizer
        if context_length is not None:
            tokenizer = copy(tokenizer)
            tokenizer.context_length = context_length
        return torch.from_numpy(tokenizer(texts))


def make_tokenizer(
    model_cfg: dict[str, Any], tokenizer_file: Path | None, source: str
) -> Callable[[Sequence[str]], Tensor]:
    """Return the tokenizer of a model config; ModelError when its ids do not fit the vocabulary."""
    text_cfg = model_cfg["text_cfg"]
    context_length = int(text_cfg.get("context_length", 77))
    vocabulary = int(text_cfg.get("vocab_size", OPEN_CLIP_VOCABULARY))
    hf_name = text_cfg.get("hf_tokenizer_name")
    if tokenizer_file is not None:
        try:
            tokenizer = ClipTokenizer.from_file(tokenizer_file, context_length)
        except ModelError:
            # A model may carry another tokenizer family (sentencepiece): open_clip knows those.
            if not hf_name:
                raise
        else:
            _check_ids(tokenizer, text_cfg, tokenizer_file)
            return FileTokenizer(tokenizer)
    if not hf_name and vocabulary < OPEN_CLIP_VOCABULARY:
        raise ModelError(
            f"{source}: text_cfg.vocab_size is {vocabulary}, open_clip's own tokenizer has "
            f"{OPEN_CLIP_VOCABULARY}; put the model's tokenizer.json beside its weights"
        )
    return _open_clip_tokenizer(text_cfg, hf_name, tokenizer_file, source)


def pad_token_id(tokenizer: object) -> int:
    """Return the id that a tokenizer fills texts up with: zero in CLIP's own."""
    inner = getattr(tokenizer, "tokenizer", None)  # open_clip wraps those of transformers
    return int(getattr(inner, "pad_token_id", None) or 0)


def name_own_tokenizer(model_cfg: dict[str, Any], tokenizer_file: Path | None) -> None:
    """Make open_clip, when it opens a folder of ours, read a tokenizer.json that is not its own."""
    text_cfg = model_cfg["text_cfg"]
    own = text_cfg.get("vocab_size", OPEN_CLIP_VOCABULARY) != OPEN_CLIP_VOCABULARY
    if own and tokenizer_file is not None:
        text_cfg.setdefault("hf_tokenizer_name", TOKENIZER)


def _check_ids(tokenizer: ClipTokenizer, text_cfg: dict[str, Any], path: Path) -> None:
    """Refuse ids outside the embedding, and an end token that argmax pooling would not find."""
    vocabulary = int(text_cfg.get("vocab_size", OPEN_CLIP_VOCABULARY))
    if tokenizer.vocab_size > vocabulary:
        raise ModelError(
            f"{path} has {tokenizer.vocab_size} tokens, more than the model's "
            f"text_cfg.vocab_size of {vocabulary}"
        )
    pooled_by_argmax = text_cfg.get("pool_type", "argmax") == "argmax"
    if pooled_by_argmax and tokenizer.eot_token_id != tokenizer.vocab_size - 1:
        raise ModelError(
            f"{path}: the end token has id {tokenizer.eot_token_id}, it must be the last "
            f"({tokenizer.vocab_size - 1}), for the model pools at the highest id"
        )


def _open_clip_tokenizer(
    text_cfg: dict[str, Any], hf_name: str | None, tokenizer_file: Path | None, source: str
) -> Callable[[Sequence[str]], Tensor]:
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    context_length = int(text_cfg.get("context_length", 77))
    tokenizer: Callable[[Sequence[str]], Tensor]
    try:
        with quiet():
            if hf_name:
                place = tokenizer_file.parent if tokenizer_file else hf_name
                mode = text_cfg.get("tokenizer_mode")
                tokenizer = open_clip.tokenizer.HFTokenizer(
                    place, context_length=context_length, tokenizer_mode=mode, **options
                )
            else:
                tokenizer = open_clip.SimpleTokenizer(context_length=context_length, **options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{source}: cannot open its tokenizer: {cause}") from error
    return tokenizer
