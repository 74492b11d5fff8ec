"""Parse a ``tokenizer.json`` that may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from tinyclip_edge.errors import ModelError, TinyClipError
from tinyclip_edge.limits import TOKENIZER_BYTES
from tinyclip_edge.paths import read_bounded


def read_tokenizer(path: Path) -> bytes:
    """Return the bytes of a ``tokenizer.json``; ModelError when it is missing or too large."""
    return read_bounded(path, ModelError, limit=TOKENIZER_BYTES)


def parse_tokenizer(path: Path, content: bytes | None = None) -> Tokenizer:
    """Return the tokenizer of a file, or of its ``content`` where that was changed.

    Raises ModelError for every defect.
    """
    content = read_tokenizer(path) if content is None else content
    with defects_told(path):
        return Tokenizer.from_buffer(content)


@contextmanager
def defects_told(source: str | Path) -> Iterator[None]:
    """Raise ModelError for whatever the tokenizers library meets in the rules of a file.

    It raises plain Exception, and its panics are no Exception at all; many defects show only when a
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
        raise ModelError(f"{source} is no tokenizer.json: {cause}") from error
