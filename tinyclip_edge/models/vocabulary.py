"""Make a model's vocabulary smaller: fewer rows in its token table, and a tokenizer to match."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import nn

from tinyclip_edge.errors import ConfigError, DataError, ModelError
from tinyclip_edge.inheritance.text_part import text_part
from tinyclip_edge.models.clip import LoadedClip, token_table
from tinyclip_edge.models.corpus import Corpus, Ints, VocabularyReport
from tinyclip_edge.models.json_file import read_json, write_json
from tinyclip_edge.models.pieces import read_pieces
from tinyclip_edge.models.sized_text import describe_itself
from tinyclip_edge.models.tokenization import (
    TOKENIZER,
    TOKENIZER_CONFIG,
    make_tokenizer,
)
from tinyclip_edge.models.tokenizer_files import (
    SpecialTokens,
    read_tokenizer_table,
    scratch_folder,
    write_tokenizer,
)
from tinyclip_edge.models.trimmed_tokenizer import (
    base_ids,
    commonest_ids,
    required_ids,
    trimmed_json,
    trimmed_settings,
)
from tinyclip_edge.runtime.tokenizer import ClipTokenizer
from tinyclip_edge.runtime.tokenizer_json import parse_tokenizer, tokenizer_errors

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names
CutTexts: TypeAlias = Callable[[Sequence[str]], list[list[int]]]

UNKNOWN = 0.5  # share of unknown tokens above which a corpus does not suit the vocabulary
_COMPARED = 2048  # texts whose pieces are compared after a cut
_CHUNK = 4096  # texts cut at once


class Vocabulary:
    """The tokens of a model, which can be cut to fewer.

    Raises ModelError for a tokenizer that has no tokenizer.json form, or is of an unsupported kind.
    """

    def __init__(self, clip: LoadedClip) -> None:
        self._clip = clip
        self._folder = scratch_folder()
        self._special = _special_ids(clip, write_tokenizer(clip, self._folder))
        self._content = read_tokenizer_table(self._folder / TOKENIZER)
        self._pieces = read_pieces(self._content, clip.name)
        self._cut = _cutter(clip, self._folder / TOKENIZER)
        added = {token["id"] for token in self._content.get("added_tokens") or ()}
        self.size = len({*self._pieces.names, *added})
        rows = _token_table(clip).num_embeddings
        base = base_ids(self._content, self._pieces) | self._special
        if max(base) >= rows:
            raise ModelError(
                f"{clip.name}: its tokenizer has a token with id {max(base)}, its token table only "
                f"{rows} rows"
            )
        self._base = base

    @property
    def digest(self) -> str:
        """Hash of all pieces with their ids."""
        pieces = sorted(self._pieces.ids.items())
        return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()

    def read(self, texts: Iterable[str], source: str) -> Corpus:
        """Split texts into tokens, and count repeated texts.

        Raises DataError without texts, and when the tokenizer knows less than half of their tokens.
        """
        times: dict[str, int] = {}
        for text in texts:
            times[text] = times.get(text, 0) + 1
        if not times:
            raise DataError(f"{source} has no texts from which to choose a vocabulary")
        distinct = tuple(times)
        parts: list[Ints] = []
        lengths: list[int] = []
        for start in range(0, len(distinct), _CHUNK):
            rows = self._cut(distinct[start : start + _CHUNK])
            lengths.extend(map(len, rows))
            parts.append(np.array([index for row in rows for index in row], dtype=np.int64))
        corpus = Corpus(
            distinct,
            np.array([*times.values()], dtype=np.int64),
            np.concatenate(parts),
            np.cumsum(lengths, dtype=np.int64),
        )
        unknown = self._unknown(corpus)
        if unknown > UNKNOWN * len(corpus.ids):
            raise DataError(
                f"{source}: {unknown:,} of {len(corpus.ids):,} tokens are unknown to the tokenizer "
                f"of {self._clip.name}; give texts in its languages"
            )
        return corpus

    def needed(self, corpus: Corpus) -> list[int]:
        """Return the ids that a corpus needs, ascending."""
        return required_ids(self._pieces, self._base, np.unique(corpus.ids).tolist())

    def commonest(self, corpus: Corpus, size: int) -> list[int]:
        """Return at most ``size`` ids, the commonest of a corpus, ascending.

        Raises ConfigError as ``check_size`` does.
        """
        self.check_size(size)
        return commonest_ids(self._pieces, self._base, corpus.counts, size)

    def first(self, size: int) -> list[int]:
        """Return ``size`` ids as a stand-in: those of every vocabulary, and the lowest others.

        Raises ConfigError as ``check_size`` does.
        """
        self.check_size(size)
        others = sorted(set(self._pieces.names) - self._base)
        return sorted([*self._base, *others[: max(0, size - len(self._base))]])

    def check_size(self, size: int) -> None:
        """Raise ConfigError for a size above that of the model, or below the smallest possible."""
        if size > self.size:
            raise ConfigError(
                f"a vocabulary of {size:,} tokens is larger than the {self.size:,} of "
                f"{self._clip.name}"
            )
        commonest_ids(self._pieces, self._base, {}, size)

    def cut(self, ids: Sequence[int]) -> LoadedClip:
        """Return the model with only these tokens, ascending; all other weights are shared.

        Its tokenizer files are in a temporary folder. Raises ModelError for ids that are not
        its own, or a text tower without a token table.
        """
        if list(ids) != sorted({*ids} & {*range(self._clip.vocabulary)}):
            raise ModelError(f"{self._clip.name}: the ids of its vocabulary are not in order")
        if not self._base <= {*ids}:
            raise ModelError(f"{self._clip.name}: special tokens are missing in its vocabulary")
        folder = scratch_folder()
        content = trimmed_json(self._content, self._pieces, ids)
        path = folder / TOKENIZER
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        settings = self._folder / TOKENIZER_CONFIG
        if settings.is_file():
            write_json(folder / TOKENIZER_CONFIG, trimmed_settings(read_json(settings), ids))
        return _with_rows(self._clip, ids, path)

    def compare(self, cut: LoadedClip, ids: Sequence[int], corpus: Corpus) -> VocabularyReport:
        """Report on a cut; ModelError if a text of retained tokens is split into other pieces."""
        covered = corpus.covered(ids)
        step = max(1, int(covered.sum()) // _COMPARED)
        assert cut.tokenizer_file is not None
        recut = _cutter(cut, cut.tokenizer_file)
        for number in np.flatnonzero(covered)[::step].tolist():
            text = corpus.texts[number]
            if [ids[index] for index in recut([text])[0]] != corpus.pieces(number):
                raise ModelError(
                    f"{cut.name}: a smaller vocabulary cuts {text[:60]!r} into other pieces, though"
                    " all of them are retained; its tokenizer has rules that are not supported"
                )
        return VocabularyReport(
            tokens=len(ids),
            of=self.size,
            texts=len(corpus.texts),
            recut=int((~covered).sum()),
            unknown=self._unknown(corpus),
        )

    def _unknown(self, corpus: Corpus) -> int:
        unknown = self._pieces.unknown
        return 0 if unknown is None else int((corpus.ids == unknown).sum())


def _token_table(clip: LoadedClip) -> nn.Embedding:
    table = token_table(clip.model)
    if table is None:
        kind = type(text_part(clip.model)).__name__
        raise ModelError(f"{clip.name}: text tower {kind} has no token table to make smaller")
    return table


def _special_ids(clip: LoadedClip, special: SpecialTokens) -> set[int]:
    inner = getattr(clip.tokenizer, "tokenizer", None)  # of transformers
    ids = {special.start, special.end, *getattr(inner, "all_special_ids", ())}
    padding = getattr(getattr(text_part(clip.model), "config", None), "pad_token_id", None)
    if padding is not None:  # towers from transformers count positions from it
        ids |= {*range(padding + 1)}
    return ids


def _cutter(clip: LoadedClip, path: Path) -> CutTexts:
    """Return a function that splits texts of any length into ids, without special tokens."""
    wrapper: Any = clip.tokenizer
    if not hasattr(wrapper, "strip_sep_token"):  # CLIP's own, of any form
        tokenizer = ClipTokenizer.from_file(path, clip.context_length)
        return lambda texts: [tokenizer.pieces(text) for text in texts]
    parsed = parse_tokenizer(path)
    parsed.no_truncation()
    parsed.no_padding()

    def cut(texts: Sequence[str]) -> list[list[int]]:
        with tokenizer_errors(path):
            encoded = parsed.encode_batch(
                [wrapper.clean_fn(text) for text in texts], add_special_tokens=False
            )
        return [encoding.ids for encoding in encoded]

    return cut


def _with_rows(clip: LoadedClip, ids: Sequence[int], tokenizer_file: Path) -> LoadedClip:
    """Return the model with only these rows of its token table."""
    config = copy.deepcopy(clip.config)
    shared = (*clip.model.parameters(), *clip.model.buffers())
    model: OpenClip = copy.deepcopy(clip.model, {id(tensor): tensor for tensor in shared})
    cut = replace(
        clip, model=model, config=config, tokenizer_file=tokenizer_file, weights_file=None
    )
    text, table = text_part(model), _token_table(cut)
    # The module is reused: some scale the rows they look up.
    table.weight = nn.Parameter(
        table.weight.detach()[list(ids)].clone(), requires_grad=table.weight.requires_grad
    )
    table.num_embeddings = len(ids)
    text_cfg = config["model_cfg"]["text_cfg"]
    text_cfg["vocab_size"] = len(ids)
    text_cfg["hf_tokenizer_name"] = TOKENIZER
    for owner in (text, getattr(text, "config", None)):
        for name in ("vocab_size", "text_vocab_size"):
            if isinstance(getattr(owner, name, None), int):
                setattr(owner, name, len(ids))
    describe_itself(text, text_cfg)
    used = {"eos_id": text_cfg.get("pool_type") == "eos", "pad_id": text_cfg.get("embed_cls")}
    for name, is_used in used.items():
        for key in (name, f"text_{name}"):
            old_id = getattr(text, key, None)
            if isinstance(old_id, int) and old_id in ids:
                setattr(text, key, ids.index(old_id))
                if is_used:
                    text_cfg[name] = ids.index(old_id)
    return replace(cut, tokenizer=make_tokenizer(config["model_cfg"], tokenizer_file, clip.name))
