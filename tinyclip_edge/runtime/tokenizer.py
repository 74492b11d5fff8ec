"""CLIP's byte-pair tokenizer from a ``tokenizer.json``, with open_clip's text cleaning."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, normalizers

from tinyclip_edge.errors import DataError, ModelError
from tinyclip_edge.runtime.tokenizer_json import (
    parse_tokenizer,
    read_tokenizer,
    tokenizer_errors,
    try_tokenizer,
)

START_TOKENS = ("<|startoftext|>", "<start_of_text>")
END_TOKENS = ("<|endoftext|>", "<end_of_text>")

# Texts that ftfy and html leave unchanged, like most captions.
_CLEAN_TEXT = re.compile(r"[ -%'-~\t\n\f\r]*")
# CLIP's pattern for words as in tokenizer.json, and as in open_clip, where it ignores case: a long
# s matches s, and U+0345, whose other case is a letter, is dropped.
_WORDS = rb"'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"
_CASELESS = "'[sſ]|".encode() + _WORDS[3:-2] + "\u0345]+".encode()
_CLEANING = ("NFC", "Lowercase", "Replace")  # normalizers whose work clean_text has done


def clean_text(text: str, *, lower: bool = True) -> str:
    """Return the text as open_clip's tokenizer sees it.

    Broken Unicode repaired by ftfy (mojibake, ligatures, widths, quotes, control characters),
    entities unescaped, blanks collapsed, lower case.
    """
    if not _CLEAN_TEXT.fullmatch(text):
        # An import of 60 ms and 8 MB that most programs do not need.
        from ftfy import fix_text

        text = html.unescape(html.unescape(fix_text(text)))
    text = " ".join(text.split())
    return text.lower() if lower else text


class ClipTokenizer:
    """Texts to token ids: start token, pieces, end token; truncated texts keep their end token."""

    def __init__(
        self, tokenizer: Tokenizer, context_length: int, *, source: str = "tokenizer"
    ) -> None:
        self._tokenizer = tokenizer
        self._source = source
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # "<|endoftext|>" typed by a user is text, not a control token.
        self._tokenizer.encode_special_tokens = True
        if _only_cleans(tokenizer.normalizer):
            # It would also compose characters from HTML entities, which open_clip does not.
            self._tokenizer.normalizer = normalizers.Sequence([])
        self.context_length = context_length
        self.sot_token_id = _special_id(tokenizer, START_TOKENS, source)
        self.eot_token_id = _special_id(tokenizer, END_TOKENS, source)
        self.vocab_size: int = tokenizer.get_vocab_size()

    @classmethod
    def from_file(cls, path: str | Path, context_length: int) -> ClipTokenizer:
        """Read a ``tokenizer.json``; raise ModelError when it is missing, broken or not CLIP's."""
        path = Path(path)
        if context_length < 2:
            raise ModelError(f"context length {context_length} leaves no room for start and end")
        tokenizer = parse_tokenizer(path, _caseless(read_tokenizer(path)))
        with tokenizer_errors(path):
            clip_tokenizer = cls(tokenizer, context_length, source=str(path))
        try_tokenizer(partial(tokenizer.encode, add_special_tokens=False), path)
        return clip_tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text, at most ``context_length``, neither padded nor empty."""
        room = self.context_length - 2
        return [self.sot_token_id, *self.pieces(text)[:room], self.eot_token_id]

    def fits(self, text: str) -> bool:
        """Whether the text fits the context without truncation."""
        # A piece has one byte or more.
        if text.isascii() and len(text) + 2 <= self.context_length:
            return True
        return len(self.pieces(text)) + 2 <= self.context_length

    def pieces(self, text: str) -> list[int]:
        """Return the ids of a text of any length, without start and end.

        Raises DataError unless it is a str.
        """
        if not isinstance(text, str):
            raise DataError(f"a text must be str, not {type(text).__name__}")
        cleaned = clean_text(text)
        with tokenizer_errors(self._source):
            ids: list[int] = self._tokenizer.encode(cleaned, add_special_tokens=False).ids
        return ids

    def __call__(self, texts: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """Return int64 ``[N, context_length]``, zeros after the end token."""
        if isinstance(texts, str):
            texts = [texts]
        ids = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = self.encode(text)
            row[: len(tokens)] = tokens
        return ids


def _caseless(content: bytes) -> bytes:
    """Return a tokenizer.json with open_clip's pattern for words in place of CLIP's, if present."""
    rules, model, vocabulary = content.partition(b'"model"')
    if _WORDS not in rules:
        return content
    rules = rules.replace(_WORDS, _CASELESS)
    # A second pattern would run after this one and split its words.
    return re.sub(rb'"use_regex":\s*true', b'"use_regex":false', rules) + model + vocabulary


def _only_cleans(normalizer: Any) -> bool:  # noqa: ANN401
    if normalizer is None:
        return False
    state = json.loads(normalizer.__getstate__())
    steps = state.get("normalizers", [state])
    return all(step["type"] in _CLEANING and step.get("content", " ") == " " for step in steps)


def _special_id(tokenizer: Tokenizer, names: Sequence[str], source: str) -> int:
    for name in names:
        token_id = tokenizer.token_to_id(name)
        if token_id is not None:
            return int(token_id)
    raise ModelError(f"{source} has no {names[0]} token; it is not a CLIP tokenizer")
