"""Small CLIPs whose text tower is one of transformers', with random weights and own tokenizers."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from open_clip import hf_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tinyclip_edge.models import LoadedClip
from tinyclip_edge.models.assemble import assemble

CONTEXT = 24
WORDS = [
    *("a", "an", "and", "the", "in", "on", "of", "with", "at", "red", "blue", "green", "small"),
    *("cat", "dog", "bird", "house", "bicycle", "square", "circle", "photo", "rain", "snow"),
    *("table", "wooden", "night"),
]
IMAGE = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 2, "head_width": 64}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MARKED = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def unigram(specials: list[str], start: str | None, end: str) -> Tokenizer:
    """Sentencepiece's kind: the words whole, other ones by letter, between ``start`` and ``end``.

    The words have the low ids, so that the highest of a text is rarely that of its end.
    """
    pieces = [(piece, 0.0) for piece in specials]
    pieces += [(f"▁{word}", -1.0 - 0.01 * number) for number, word in enumerate(WORDS)]
    pieces += [(letter, -9.0) for letter in ["▁", *string.ascii_lowercase]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=specials.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    template = f"{start} $A {end}" if start else f"$A {end}"
    around = [(token, specials.index(token)) for token in (start, end) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    tokenizer.add_special_tokens(specials)
    return tokenizer


def byte_pairs() -> Tokenizer:
    """RoBERTa's kind: byte pairs, each letter a token, between <s> and </s>."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: number for number, token in enumerate([*specials, *symbols])}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _roberta(kind: str, vocabulary: int) -> Any:
    classes = {"roberta": transformers.RobertaConfig, "xlm": transformers.XLMRobertaConfig}
    return classes[kind](
        vocab_size=vocabulary, intermediate_size=128, max_position_embeddings=140, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, type_vocab_size=1, **SIZES,
    )  # fmt: skip


def _mt5(vocabulary: int) -> Any:
    return transformers.MT5Config(
        vocab_size=vocabulary, d_model=64, d_kv=32, d_ff=128, num_layers=2, num_decoder_layers=1,
        num_heads=2, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip


def _nllb(vocabulary: int) -> Any:
    return transformers.M2M100Config(
        vocab_size=vocabulary, d_model=64, encoder_layers=2, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=128,
        decoder_ffn_dim=128, max_position_embeddings=140, pad_token_id=1, bos_token_id=0,
        eos_token_id=2,
    )  # fmt: skip


FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]
# Name of open_clip's text tower: tokenizer, special tokens, config of transformers, pooling.
KINDS: dict[str, tuple[Callable[[], Tokenizer], dict[str, str], Callable[[int], Any], str]] = {
    "xlm-roberta-base": (
        lambda: unigram(FAIRSEQ, "<s>", "</s>"), MARKED, lambda n: _roberta("xlm", n),
        "mean_pooler",
    ),
    "roberta-base": (byte_pairs, MARKED, lambda n: _roberta("roberta", n), "mean_pooler"),
    "google/mt5-base": (
        lambda: unigram(["<pad>", "</s>", "<unk>"], None, "</s>"),
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, _mt5, "mean_pooler",
    ),
    "facebook/nllb-200-distilled-600M": (
        lambda: unigram([*FAIRSEQ, "eng_Latn"], "eng_Latn", "</s>"), MARKED, _nllb, "cls_pooler",
    ),
}  # fmt: skip
ENDS = {
    "xlm-roberta-base": 2,
    "roberta-base": 2,
    "google/mt5-base": 1,
    "facebook/nllb-200-distilled-600M": 2,
}


def make_teacher(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0, **text_cfg: Any
) -> LoadedClip:
    """A CLIP of toy size with a text tower of this kind; its tokenizer lies in ``folder``."""
    build, special_tokens, make_config, pooler = KINDS[kind]
    tokenizer = build()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(special_tokens))
    config = make_config(tokenizer.get_vocab_size())
    monkeypatch.setattr(hf_model.AutoConfig, "from_pretrained", lambda *_: config)
    text = {
        "hf_model_name": kind, "hf_tokenizer_name": kind, "hf_pooler_type": pooler,
        "hf_proj_type": "linear", "context_length": CONTEXT, **text_cfg,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return assemble(
            {"embed_dim": 48, "vision_cfg": IMAGE, "text_cfg": text}, None, name=kind,
            tokenizer_file=folder / "tokenizer.json",
        )  # fmt: skip
