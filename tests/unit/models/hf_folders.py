"""Changes to the JSON files of Hugging Face folders."""

from __future__ import annotations

import json


def edit(path, **changes):
    """Set keys of a JSON file; ``a__b`` is key b of table a."""
    table = json.loads(path.read_text())
    for key, value in changes.items():
        *tables, last = key.split("__")
        inner = table
        for name in tables:
            inner = inner[name]
        inner[last] = value
    path.write_text(json.dumps(table))
