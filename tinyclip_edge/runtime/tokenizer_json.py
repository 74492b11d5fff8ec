"""Parse an untrusted ``tokenizer.json``."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenizers import Tokenizer

from tinyclip_edge.errors import ModelError, TinyClipError, first_line
from tinyclip_edge.json_text import check_count, parse_json, unrepeated
from tinyclip_edge.limits import TOKEN_CHARS, TOKENIZER_BYTES, TOKENIZER_VALUES
from tinyclip_edge.paths import read_bounded
from tinyclip_edge.runtime.text_growth import check_growth

_PREFIX_KEY = "continuing_subword_prefix"
_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*(?!""|null|\s)')
_ESCAPED_LETTER = re.compile(rb"\\u00[2-7]")  # an escape that could hide a key
_ANY_TEXT = "a photo of 2 cats, <b>\u00e9</b> \u732b \U0001f408"


def read_tokenizer(path: Path) -> bytes:
    """Return the bytes of a ``tokenizer.json``; ModelError when it is missing or too large."""
    return read_bounded(path, ModelError, limit=TOKENIZER_BYTES)


def parse_tokenizer(path: Path, content: bytes | None = None) -> Tokenizer:
    """Return the tokenizer of a file, or of ``content`` if its bytes were changed.

    Raises ModelError for every defect.
    """
    content = read_tokenizer(path) if content is None else content
    try:
        check_count(content, TOKENIZER_VALUES)
    except ValueError as error:
        raise ModelError(f"{path} is not a tokenizer.json: {error}") from None
    _check_added_tokens(path, content)
    _check_prefix(path, content)
    with tokenizer_errors(path), silent_panics():
        tokenizer = Tokenizer.from_buffer(content)
        check_growth(tokenizer, str(path))
    return tokenizer


def try_tokenizer(encode: Callable[[str], object], source: str | Path) -> None:
    """Encode a sample text; raise ModelError if the library panics.

    Other errors are ignored until a user's text causes them: a vocabulary may lack these words.
    """
    with tokenizer_errors(source), silent_panics(), suppress(Exception):
        encode(_ANY_TEXT)


@contextmanager
def silent_panics() -> Iterator[None]:
    """Hide what Rust prints about a panic in the block, which must print nothing else to stderr.

    Rust writes to file descriptor 2, which all threads and child processes share, so nothing is
    hidden while other threads run. Nor is it hidden when a later text is the first to cause a
    panic, because texts are encoded in many threads.
    """
    if threading.active_count() > 1:
        yield
        return
    try:
        stderr = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _check_added_tokens(path: Path, content: bytes) -> None:
    # A longer string fills one of these windows, which then has no quote. Most files have none and
    # are not parsed a second time, which would delay the start.
    strings, window = content.replace(b'\\"', b""), TOKEN_CHARS // 2
    if all(b'"' in strings[at : at + window] for at in range(0, len(strings) - window, window)):
        return
    try:
        table = parse_json(content, values=TOKENIZER_VALUES)
    except ValueError as error:
        raise ModelError(f"{path} is not a tokenizer.json: {error}") from None
    added = table.get("added_tokens") if isinstance(table, dict) else None
    for token in added if isinstance(added, list) else ():
        text = token.get("content") if isinstance(token, dict) else None
        if isinstance(text, str) and len(text) > TOKEN_CHARS:
            raise ModelError(
                f"{path} is not a tokenizer.json: an added token has {len(text):,} characters, at "
                f"most {TOKEN_CHARS:,} are allowed"
            )


def _check_prefix(path: Path, content: bytes) -> None:
    """Refuse byte-pair models with a prefix for pieces, which no CLIP model has.

    The library may cut a merge's second piece inside a character; its error message is then not
    UTF-8, and ends the process.
    """
    if not _PREFIX.search(content) and not _ESCAPED_LETTER.search(content):
        return
    try:
        table = json.loads(content, object_pairs_hook=unrepeated)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a tokenizer.json: {error}") from None
    model = table.get("model") if isinstance(table, dict) else None
    if isinstance(model, dict) and model.get("type") != "WordPiece" and model.get(_PREFIX_KEY):
        raise ModelError(
            f"{path}: {_PREFIX_KEY} is supported for WordPiece models only, not {model.get('type')}"
        )


@contextmanager
def tokenizer_errors(
    source: str | Path, problem: str = "is not a tokenizer.json"
) -> Iterator[None]:
    """Raise ModelError for every error of the tokenizers library in the block.

    It raises plain Exception, or panics, which are not even that. Many defects appear only when a
    text is encoded.
    """
    try:
        yield
    except TinyClipError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = first_line(error)[:200]
        raise ModelError(f"{source} {problem}: {cause}") from error
