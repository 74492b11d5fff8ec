"""What tests of feature caches share."""

from __future__ import annotations

STEPS = 6  # an epoch of 96 pairs, 16 each


def cached_parts(folder):
    return {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}
