"""Trim a text tower and its tokenizer.json to the tokens that a corpus needs.

Texts of the corpus have the same tokens as before and so the same embeddings. Since all single
bytes are retained, within and at the end of words, any other text can still be tokenized, but with
other tokens, and so another embedding, than in the original model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from tinyclip_edge.errors import DataError, ModelError, VerificationError
from tinyclip_edge.models.tokenization import make_tokenizer
from tinyclip_edge.models.tokenizer_files import read_tokenizer_table, write_tokenizer
from tinyclip_edge.runtime.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names
TokenizerJson: TypeAlias = dict[str, Any]

TOLERANCE = 1e-6  # for components of embeddings
_SAMPLE = 512  # texts of the corpus for comparing embeddings
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class TrimmedVocabulary:
    """The smaller model, and the report for the manifest."""

    clip: LoadedClip
    report: dict[str, Any]


def trim_vocabulary(clip: LoadedClip, corpus: Sequence[str], folder: Path) -> TrimmedVocabulary:
    """Return a copy of `clip` with only the tokens of `corpus`, bytes and special tokens.

    Its tokenizer.json is written to `folder`, which must exist until the model is exported. Raises
    DataError for an empty corpus, ModelError for a tokenizer other than byte-level BPE or an
    unsupported text tower, VerificationError when the embedding of a text changes.
    """
    if not corpus:
        raise DataError("the corpus for trimming the vocabulary is empty; write one text per line")
    write_tokenizer(clip, folder)
    path = folder / "tokenizer.json"
    content = read_tokenizer_table(path)
    tokenizer = ClipTokenizer.from_file(path, clip.context_length)
    ids = required_ids(content, used_ids(tokenizer, corpus), clip.name)
    path.write_text(json.dumps(trimmed_json(content, ids), ensure_ascii=False), encoding="utf-8")
    trimmed = _with_rows(clip, ids, path)
    report = {
        "tokens": len(ids),
        "of": tokenizer.vocab_size,
        "texts": len(corpus),
        "max_difference": _difference(clip, trimmed, corpus),
    }
    return TrimmedVocabulary(trimmed, report)


def used_ids(tokenizer: ClipTokenizer, corpus: Iterable[str]) -> set[int]:
    """Return the ids of all tokens of the texts, including those beyond the context length."""
    return {index for text in corpus for index in tokenizer.pieces(text)}


def required_ids(content: TokenizerJson, used: set[int], source: str) -> list[int]:
    """Return `used`, the tokens they are merged from, bytes and special tokens, in order."""
    vocabulary, merges = _byte_pairs(content, source)
    pieces_by_id = {index: piece for piece, index in vocabulary.items()}
    parts: dict[str, set[str]] = {}
    for first, second in merges:
        parts.setdefault(first + second, set()).update((first, second))
    special = {token["id"] for token in content["added_tokens"]}
    suffix = content["model"].get("end_of_word_suffix") or ""
    bytes_ = {i for piece, i in vocabulary.items() if len(piece.removesuffix(suffix)) <= 1}
    required = special | bytes_
    pending = list(used - required)
    while pending:
        index = pending.pop()
        required.add(index)
        sources = {vocabulary[piece] for piece in parts.get(pieces_by_id[index], ())}
        pending.extend(sources - required)
    return sorted(required)


def trimmed_json(content: TokenizerJson, ids: Sequence[int]) -> TokenizerJson:
    """Return the tokenizer.json whose n-th token is the old ``ids[n]``.

    A merge is retained if its parts and its result are. This includes all merges in the corpus, and
    their order is unchanged, so the texts of the corpus have the same tokens.
    """
    new_ids = {old_id: position for position, old_id in enumerate(ids)}
    result = copy.deepcopy(content)
    model = result["model"]
    model["vocab"] = {
        piece: new_ids[old_id]
        for piece, old_id in sorted(model["vocab"].items(), key=lambda item: item[1])
        if old_id in new_ids
    }
    vocabulary = model["vocab"]
    model["merges"] = [
        [first, second]
        for first, second in _pairs(model["merges"])
        if first in vocabulary and second in vocabulary and first + second in vocabulary
    ]
    for token in result["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    _renumber(result.get("post_processor"), new_ids)
    return result


def _renumber(processor: Any, new_ids: Mapping[int, int]) -> None:  # noqa: ANN401
    if processor is None:
        return
    if processor["type"] in ("RobertaProcessing", "BertProcessing"):
        for key in ("sep", "cls"):
            processor[key][1] = new_ids[processor[key][1]]
    elif processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [new_ids[index] for index in token["ids"]]
    elif processor["type"] != "ByteLevel":
        raise ModelError(
            f"tokenizer.json: post_processor {processor['type']} cannot be trimmed; "
            "omit --trim-vocab"
        )


def _byte_pairs(content: TokenizerJson, source: str) -> tuple[dict[str, int], list[list[str]]]:
    model = content["model"]
    # Older files do not have the type.
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("merges"), list):
        raise ModelError(
            f"{source}: its tokenizer is not a byte-pair tokenizer, as --trim-vocab requires"
        )
    return model["vocab"], _pairs(model["merges"])


def _pairs(merges: Sequence[str | list[str]]) -> list[list[str]]:
    """Return merges as pairs; older files have strings with a space."""
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


def _with_rows(clip: LoadedClip, ids: Sequence[int], tokenizer_file: Path) -> LoadedClip:
    """Return a copy of the model with only these rows of its token table."""
    config = copy.deepcopy(clip.config)
    model: OpenClip = copy.deepcopy(clip.model)
    text: OpenClip = getattr(
        model, "text", model
    )  # open_clip.CustomTextCLIP has a separate text tower
    if not isinstance(getattr(text, "token_embedding", None), nn.Embedding):
        raise ModelError(
            f"{clip.name}: text tower {type(text).__name__} has no token table that "
            "--trim-vocab can cut"
        )
    table = text.token_embedding.weight.detach()
    text.token_embedding = nn.Embedding(len(ids), table.shape[1], _weight=table[list(ids)].clone())
    text_cfg = config["model_cfg"]["text_cfg"]
    text_cfg["vocab_size"] = len(ids)
    for name in ("vocab_size", "text_vocab_size"):
        if hasattr(text, name):
            setattr(text, name, len(ids))
    for name in ("eos_id", "text_eos_id", "pad_id", "text_pad_id"):
        _move_id(text, name, ids)
    if "eos_id" in text_cfg and text_cfg["eos_id"] in ids:
        text_cfg["eos_id"] = ids.index(text_cfg["eos_id"])
    tokenizer = make_tokenizer(config["model_cfg"], tokenizer_file, clip.name)
    return replace(
        clip,
        model=model,
        config=config,
        tokenizer=tokenizer,
        tokenizer_file=tokenizer_file,
        weights_file=None,
    )


def _move_id(text: OpenClip, name: str, ids: Sequence[int]) -> None:
    old_id = getattr(text, name, None)
    if isinstance(old_id, int) and old_id in ids:
        setattr(text, name, ids.index(old_id))


def _difference(original: LoadedClip, trimmed: LoadedClip, corpus: Sequence[str]) -> float:
    """Return the largest difference of a component of the embeddings, over texts of the corpus."""
    step = max(1, len(corpus) // _SAMPLE)
    texts = list(corpus[::step])
    largest = 0.0
    with torch.inference_mode():
        for start in range(0, len(texts), _CHUNK):
            batch = texts[start : start + _CHUNK]
            before, after = (_encode(clip, batch) for clip in (original, trimmed))
            largest = max(largest, float((before - after).abs().max()))
    if not largest <= TOLERANCE:
        raise VerificationError(
            f"trimmed vocabulary: an embedding changed by {largest:.2g}, {TOLERANCE:g} allowed"
        )
    return largest


def _encode(clip: LoadedClip, texts: Sequence[str]) -> torch.Tensor:
    model: OpenClip = clip.model
    features: torch.Tensor = model.encode_text(clip.tokenizer(texts), normalize=True)
    return features
