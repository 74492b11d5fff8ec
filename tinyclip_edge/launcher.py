"""Environment variables of torchrun and accelerate, read without torch."""

from __future__ import annotations

import os


def first_process() -> bool:
    """Whether this process prints and writes for all: a single one, or a launcher's first."""
    return os.environ.get("RANK", "0") == "0"


def in_a_group() -> bool:
    """Whether a launcher started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"
