"""CLIP's byte-pair tokenizer from a ``tokenizer.json``, with open_clip's text cleaning."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tinyclip_edge.errors import DataError, ModelError

START_TOKENS = ("<|startoftext|>", "<start_of_text>")
END_TOKENS = ("<|endoftext|>", "<end_of_text>")

# open_clip's cleaning straightens these quotes too; captions typed on a phone are full of them.
_QUOTES = str.maketrans(
    dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)


def clean_text(text: str, *, lower: bool = True) -> str:
    """Return the text as open_clip's tokenizer sees it: unescaped, blanks collapsed, lower case."""
    if not text.isascii():
        # A lone surrogate cannot be encoded; the replacement character can.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = unicodedata.normalize("NFC", text.translate(_QUOTES))
    text = html.unescape(html.unescape(text))
    text = " ".join(text.split())
    return text.lower() if lower else text


class ClipTokenizer:
    """Texts to token ids: start token, pieces, end token; cut texts keep their end token."""

    def __init__(
        self, tokenizer: Tokenizer, context_length: int, *, source: str = "tokenizer"
    ) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # "<|endoftext|>" typed by a user is text, not a control token.
        self._tokenizer.encode_special_tokens = True
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
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"cannot read tokenizer {path}: {error.strerror or error}") from error
        # The tokenizers library raises plain Exception for every defect of the file.
        except Exception as error:
            raise ModelError(f"{path} is no tokenizer.json: {_first_line(error)}") from error
        return cls(tokenizer, context_length, source=str(path))

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text, at most ``context_length``, neither padded nor empty."""
        room = self.context_length - 2
        return [self.sot_token_id, *self.pieces(text)[:room], self.eot_token_id]

    def pieces(self, text: str) -> list[int]:
        """Return the ids of a whole text, however long, without start and end."""
        if not isinstance(text, str):
            raise DataError(f"a text must be str, not {type(text).__name__}")
        found: list[int] = self._tokenizer.encode(clean_text(text), add_special_tokens=False).ids
        return found

    def __call__(self, texts: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """Return int64 ``[N, context_length]``, zeros after the end token."""
        if isinstance(texts, str):
            texts = [texts]
        ids = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = self.encode(text)
            row[: len(tokens)] = tokens
        return ids


def _special_id(tokenizer: Tokenizer, names: Sequence[str], source: str) -> int:
    for name in names:
        found = tokenizer.token_to_id(name)
        if found is not None:
            return int(found)
    raise ModelError(f"{source} has no {names[0]} token; it is not a CLIP tokenizer")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
