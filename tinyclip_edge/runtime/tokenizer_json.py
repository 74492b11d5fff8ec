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
_ESCAPED_LETTER = re.compile(rb"\\u00[2-7]")  # by which a key may hide
_ANY_TEXT = "a photo of 2 cats, <b>\u00e9</b> \u732b \U0001f408"


def read_tokenizer(path: Path) -> bytes:
    """Return the bytes of a ``tokenizer.json``; ModelError when it is missing or too large."""
    return read_bounded(path, ModelError, limit=TOKENIZER_BYTES)


def parse_tokenizer(path: Path, content: bytes | None = None) -> Tokenizer:
    """Return the tokenizer of a file, or of its ``content`` where that was changed.

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
    """Encode one text; raise ModelError when the library panics upon it.

    Other errors are left to the texts that meet them: a vocabulary may lack these words.
    """
    with tokenizer_errors(source), silent_panics(), suppress(Exception):
        encode(_ANY_TEXT)


@contextmanager
def silent_panics() -> Iterator[None]:
    """Drop what Rust prints of a panic while the block runs, which must write nothing else.

    It goes past Python to file descriptor 2, which all threads and their children share: with
    other threads about, the lines are printed. They are also printed where a text meets a fault
    that no text met before, as texts are encoded in many threads.
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
    # A string of that length fills one of these windows. Most files have none and are not parsed
    # a second time, which would delay the start.
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
    """Refuse byte-pair models with a prefix of pieces, which no CLIP has.

    The library cuts a merge's second piece within a character, and its message of that, no UTF-8,
    ends the process.
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
        cause = first_line(error)[:200]
        raise ModelError(f"{source} {problem}: {cause}") from error
