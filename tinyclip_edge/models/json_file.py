"""JSON configs in model folders, of open_clip and of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.json_text import read_json_table


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a table, indented as other tools do."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON table; ModelError when it is missing or broken."""
    return read_json_table(path, ModelError)
