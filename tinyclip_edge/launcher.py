"""What torchrun and accelerate tell each process that they start, readable without torch."""

from __future__ import annotations

import os


def first_process() -> bool:
    """Say whether this process speaks and writes for all: a single one, or a launcher's first."""
    return os.environ.get("RANK", "0") == "0"


def in_a_group() -> bool:
    """Say whether a launcher started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"
