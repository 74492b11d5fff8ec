"""A text tower with the tokens that a corpus needs, and a tokenizer.json that maps to them.

Texts of the corpus get the same pieces as before, so the same embeddings. All bytes stay, alone
and at the end of a word, so any other text can still be spelt; its pieces, and so its embedding,
are then others than the whole model's.
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
from tinyclip_edge.models.tokenizer_files import write_tokenizer
from tinyclip_edge.runtime.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names
TokenizerJson: TypeAlias = dict[str, Any]

TOLERANCE = 1e-6  # of an embedding's component
_CHECKED = 512  # texts of the corpus whose embeddings are compared
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The smaller model, and what the manifest says of it."""

    clip: LoadedClip
    report: dict[str, Any]


def trim_vocabulary(clip: LoadedClip, corpus: Sequence[str], folder: Path) -> Trimmed:
    """Return a copy of `clip` that knows only the tokens of `corpus`, bytes and special tokens.

    Its tokenizer.json is written to `folder`, which must stay until it has been exported. Raises
    DataError for an empty corpus, ModelError for another tokenizer than byte-level pairs or a text
    tower of another build, VerificationError when a text's embedding is not what it was.
    """
    if not corpus:
        raise DataError("the corpus to trim the vocabulary to is empty; write one text a line")
    write_tokenizer(clip, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = ClipTokenizer.from_file(path, clip.context_length)
    ids = kept_ids(content, used_ids(tokenizer, corpus), clip.name)
    path.write_text(json.dumps(trimmed_json(content, ids), ensure_ascii=False), encoding="utf-8")
    small = _with_rows(clip, ids, path)
    report = {
        "tokens": len(ids),
        "of": tokenizer.vocab_size,
        "texts": len(corpus),
        "max_difference": _difference(clip, small, corpus),
    }
    return Trimmed(small, report)


def used_ids(tokenizer: ClipTokenizer, corpus: Iterable[str]) -> set[int]:
    """Return the ids of all pieces of the texts, of what lies behind the context length too."""
    return {index for text in corpus for index in tokenizer.pieces(text)}


def kept_ids(content: TokenizerJson, used: set[int], source: str) -> list[int]:
    """Return `used`, what its pieces are merged from, bytes and special tokens, in old order."""
    vocabulary, merges = _byte_pairs(content, source)
    names = {index: piece for piece, index in vocabulary.items()}
    parts: dict[str, set[str]] = {}
    for left, right in merges:
        parts.setdefault(left + right, set()).update((left, right))
    special = {token["id"] for token in content["added_tokens"]}
    suffix = content["model"].get("end_of_word_suffix") or ""
    bytes_ = {i for piece, i in vocabulary.items() if len(piece.removesuffix(suffix)) <= 1}
    kept = special | bytes_
    open_ids = list(used - kept)
    while open_ids:
        index = open_ids.pop()
        kept.add(index)
        made_of = {vocabulary[piece] for piece in parts.get(names[index], ())}
        open_ids.extend(made_of - kept)
    return sorted(kept)


def trimmed_json(content: TokenizerJson, ids: Sequence[int]) -> TokenizerJson:
    """Return the tokenizer.json whose n-th token is the old ``ids[n]``.

    A merge stays if both sides and its result do. Every merge that a text of the corpus used is
    among them, and pairs are merged in the old order, so those texts fall into the same pieces.
    """
    new = {old: position for position, old in enumerate(ids)}
    result = copy.deepcopy(content)
    model = result["model"]
    model["vocab"] = {
        piece: new[old]
        for piece, old in sorted(model["vocab"].items(), key=lambda item: item[1])
        if old in new
    }
    known = model["vocab"]
    model["merges"] = [
        [left, right]
        for left, right in _pairs(model["merges"])
        if left in known and right in known and left + right in known
    ]
    for token in result["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber(result.get("post_processor"), new)
    return result


def _renumber(processor: Any, new: Mapping[int, int]) -> None:  # noqa: ANN401
    if processor is None:
        return
    if processor["type"] in ("RobertaProcessing", "BertProcessing"):
        for key in ("sep", "cls"):
            processor[key][1] = new[processor[key][1]]
    elif processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [new[index] for index in token["ids"]]
    elif processor["type"] != "ByteLevel":
        raise ModelError(
            f"tokenizer.json: post_processor {processor['type']} cannot be trimmed; "
            "leave --trim-vocab"
        )


def _byte_pairs(content: TokenizerJson, source: str) -> tuple[dict[str, int], list[list[str]]]:
    model = content["model"]
    # Older files do not name the type.
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("merges"), list):
        raise ModelError(
            f"{source}: its tokenizer is no byte-pair tokenizer; --trim-vocab needs one"
        )
    return model["vocab"], _pairs(model["merges"])


def _pairs(merges: Sequence[str | list[str]]) -> list[list[str]]:
    """Return merges as pairs; older files write them as one text with a blank."""
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


def _with_rows(clip: LoadedClip, ids: Sequence[int], tokenizer_file: Path) -> LoadedClip:
    """Return a copy of the model with these rows of its token table."""
    config = copy.deepcopy(clip.config)
    model: OpenClip = copy.deepcopy(clip.model)
    text: OpenClip = getattr(
        model, "text", model
    )  # open_clip.CustomTextCLIP keeps its text tower apart
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
    old = getattr(text, name, None)
    if isinstance(old, int) and old in ids:
        setattr(text, name, ids.index(old))


def _difference(whole: LoadedClip, small: LoadedClip, corpus: Sequence[str]) -> float:
    """Return the largest difference of an embedding's component over texts of the corpus."""
    step = max(1, len(corpus) // _CHECKED)
    texts = list(corpus[::step])
    worst = 0.0
    with torch.inference_mode():
        for start in range(0, len(texts), _CHUNK):
            part = texts[start : start + _CHUNK]
            before, after = (_encoded(clip, part) for clip in (whole, small))
            worst = max(worst, float((before - after).abs().max()))
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"trimmed vocabulary: an embedding moved by {worst:.2g}, {TOLERANCE:g} allowed"
        )
    return worst


def _encoded(clip: LoadedClip, texts: Sequence[str]) -> torch.Tensor:
    model: OpenClip = clip.model
    found: torch.Tensor = model.encode_text(clip.tokenizer(texts), normalize=True)
    return found
