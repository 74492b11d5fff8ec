"""How a benchmark gives its result: in a file, and on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_result(result: dict[str, Any], out: Path | None) -> None:
    """Write a result as JSON to ``out``, whose folder is created; None: nowhere."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(_text(result), encoding="utf-8")


def print_result(result: dict[str, Any], out: Path | None) -> None:
    """Print a result as JSON, and write it as ``write_result`` does."""
    write_result(result, out)
    print(_text(result))


def _text(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1) + "\n"
