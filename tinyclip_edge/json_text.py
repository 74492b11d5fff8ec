"""Read JSON of bounded size and depth; every fault is one line of the caller's own error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.limits import JSON_BYTES, JSON_DEPTH
from tinyclip_edge.paths import read_bounded

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - whatever the text holds
    """Return the value of a text in UTF-8; ValueError when it is no JSON or nested too deeply."""
    try:
        value = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError(f"nested more than {JSON_DEPTH} deep") from None
    _check_depth(value)
    return value


def read_json_file(path: Path, error: type[TinyClipError], *, limit: int = JSON_BYTES) -> Any:  # noqa: ANN401
    """Return the value of a file; ``error`` when it is missing, too large, or no JSON."""
    content = read_bounded(path, error, limit=limit)
    try:
        return parse_json(content)
    except ValueError as fault:
        raise error(f"cannot read {path}: {fault}") from None


def read_json_table(
    path: Path, error: type[TinyClipError], *, limit: int = JSON_BYTES
) -> dict[str, Any]:
    """Return the object that a file holds, all of which can be written again.

    ``error`` as in ``read_json_file``, for a list, and for halves of surrogate pairs.
    """
    content = read_bounded(path, error, limit=limit)
    try:
        value = parse_json(content)
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
