"""Read JSON of bounded size, depth and count; each fault becomes one line of the caller's error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.limits import JSON_BYTES, JSON_DEPTH, JSON_VALUES
from tinyclip_edge.paths import read_bounded

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes, *, values: int = JSON_VALUES, unique_keys: bool = False) -> Any:  # noqa: ANN401 - whatever the text holds
    """Return the value of a JSON text in UTF-8; the last value of a repeated key counts.

    Raises ValueError if the text is not JSON, is nested too deeply, may hold more than ``values``
    values and keys or, with ``unique_keys``, repeats a key.
    """
    check_count(text, values)
    try:
        value = json.loads(
            text.decode("utf-8-sig") if isinstance(text, bytes) else text,
            object_pairs_hook=unrepeated if unique_keys else None,
        )
    except RecursionError:
        raise ValueError(f"nested more than {JSON_DEPTH} deep") from None
    _check_depth(value)
    return value


def check_count(text: str | bytes, values: int) -> None:
    """Raise ValueError when a text may hold more than ``values`` values and keys.

    The text is not parsed: punctuation is counted, even within strings.
    """
    if count_values(text) > values:
        raise ValueError(f"it has more than {values:,} values")


def count_values(text: str | bytes) -> int:
    """Return the largest number of values and keys that a JSON text can have, minus one."""
    if isinstance(text, str):
        return sum(map(text.count, ",:[{"))
    return sum(map(text.count, (b",", b":", b"[", b"{")))


def check_structure(content: bytes, values: int) -> None:
    """Raise ValueError when a text in UTF-8 holds more than ``values`` values and keys.

    Unlike ``check_count``, it does not count punctuation within strings.
    """
    if count_values(content) <= values:
        return
    bare = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * values:
        raise ValueError(f"it has more than {values:,} strings")
    if sum(map(count_values, bare.split(b'"')[::2])) > values:
        raise ValueError(f"it has more than {values:,} values")


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError for a repeated key, whose first value other readers take.

    Pass it to json.loads as ``object_pairs_hook``.
    """
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key is repeated")
    return table


def read_json_file(
    path: Path,
    error: type[TinyClipError],
    *,
    limit: int = JSON_BYTES,
    values: int = JSON_VALUES,
) -> Any:  # noqa: ANN401
    """Return the value in a file; raise ``error`` if it is missing, too large or not JSON."""
    content = read_bounded(path, error, limit=limit)
    try:
        return parse_json(content, values=values)
    except ValueError as fault:
        raise error(f"cannot read {path}: {fault}") from None


def read_json_table(
    path: Path,
    error: type[TinyClipError],
    *,
    limit: int = JSON_BYTES,
    values: int = JSON_VALUES,
    unique_keys: bool = False,
) -> dict[str, Any]:
    """Return the object in a file; it can be written again as UTF-8.

    Raises ``error`` as ``read_json_file`` does, for anything but an object, for half of a surrogate
    pair and, with ``unique_keys`` (for files that only this project writes), for a repeated key.
    """
    content = read_bounded(path, error, limit=limit)
    try:
        value = parse_json(content, values=values, unique_keys=unique_keys)
        if SURROGATE.search(content):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise error(f"cannot read {path}: it contains half of a surrogate pair") from None
    except ValueError as fault:
        raise error(f"cannot read {path}: {fault}") from None
    if not isinstance(value, dict):
        raise error(f"{path} does not contain a JSON object")
    return value


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(JSON_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"nested more than {JSON_DEPTH} deep")
