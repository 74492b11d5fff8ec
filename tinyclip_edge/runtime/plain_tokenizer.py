"""A tokenizer.json that adds its own special tokens: SigLIP's, CLIPA's, multilingual ones."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import DataError, ModelError
from tinyclip_edge.runtime.tokenizer import clean_text
from tinyclip_edge.runtime.tokenizer_json import (
    parse_tokenizer,
    silent_panics,
    tokenizer_errors,
    try_tokenizer,
)

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class PlainTokenizer:
    """Texts to token ids, truncated to the context and not padded."""

    def __init__(self, path: Path, context_length: int, settings: Mapping[str, Any]) -> None:
        """Read a ``tokenizer.json``; ``settings`` is the manifest's ``tokenizer``.

        Raises ModelError when the file is broken or a setting is unknown.
        """
        self._path = path
        self._tokenizer = parse_tokenizer(path)
        can_clean = settings.get("clean") in list(CLEANING)
        if not can_clean or not isinstance(settings.get("end"), int):
            raise ModelError(f"{path}: unknown settings {dict(settings)}; upgrade tinyclip-edge")
        with tokenizer_errors(path), silent_panics():
            self._tokenizer.enable_truncation(context_length)
            self._tokenizer.no_padding()
        try_tokenizer(self._tokenizer.encode, path)
        self._clean = CLEANING[settings["clean"]]
        self._dropped = settings.get("dropped")
        self.eot_token_id = int(settings["end"])

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text, special tokens included."""
        ids: list[int] = self._encoding(text).ids
        return [0 if token == self._dropped else token for token in ids]

    def fits(self, text: str) -> bool:
        """Whether the text fits the context without truncation."""
        return not self._encoding(text).overflowing

    def _encoding(self, text: str) -> Any:  # noqa: ANN401 - tokenizers has no types
        if not isinstance(text, str):
            raise DataError(f"a text must be str, not {type(text).__name__}")
        cleaned = self._clean(text)
        with tokenizer_errors(self._path):
            return self._tokenizer.encode(cleaned)


def _canonical(text: str) -> str:
    """Return the text without punctuation, as in the training of big_vision's models."""
    return " ".join(clean_text(text).replace("_", " ").translate(_PUNCTUATION).split())


def _cased(text: str) -> str:
    return clean_text(text, lower=False)


# Names are those of open_clip's tokenizer_kwargs.
CLEANING: dict[str, Callable[[str], str]] = {
    "canonicalize": _canonical,
    "lower": clean_text,
    "whitespace": _cased,
}
