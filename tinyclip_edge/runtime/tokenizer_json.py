"""Parse an untrusted ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from tinyclip_edge.errors import ModelError, TinyClipError
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import TOKEN_CHARS, TOKENIZER_BYTES
from tinyclip_edge.paths import read_bounded


def read_tokenizer(path: Path) -> bytes:
    """Return the bytes of a ``tokenizer.json``; ModelError when it is missing or too large."""
    return read_bounded(path, ModelError, limit=TOKENIZER_BYTES)


def parse_tokenizer(path: Path, content: bytes | None = None) -> Tokenizer:
    """Return the tokenizer of a file, or of its ``content`` where that was changed.

    Raises ModelError for every defect.
    """
    content = read_tokenizer(path) if content is None else content
    _check_added_tokens(path, content)
    with tokenizer_errors(path):
        return Tokenizer.from_buffer(content)


def _check_added_tokens(path: Path, content: bytes) -> None:
    # A string of that length fills one of these windows. Most files have none and are not parsed
    # a second time, which would delay the start.
    strings, window = content.replace(b'\\"', b""), TOKEN_CHARS // 2
    if all(b'"' in strings[at : at + window] for at in range(0, len(strings) - window, window)):
        return
    try:
        table = parse_json(content)
    except ValueError as error:
        raise ModelError(f"{path} is no tokenizer.json: {error}") from None
    added = table.get("added_tokens") if isinstance(table, dict) else None
    for token in added if isinstance(added, list) else ():
        text = token.get("content") if isinstance(token, dict) else None
        if isinstance(text, str) and len(text) > TOKEN_CHARS:
            raise ModelError(
                f"{path} is no tokenizer.json: an added token has {len(text):,} characters, at "
                f"most {TOKEN_CHARS:,} are read"
            )


@contextmanager
def tokenizer_errors(source: str | Path, problem: str = "is no tokenizer.json") -> Iterator[None]:
    """Raise ModelError for every error of the tokenizers library in the block.

    It raises plain Exception, and its panics are not even that; many defects appear only when a
    text is encoded.
    """
    try:
        yield
    except TinyClipError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{source} {problem}: {cause}") from error
