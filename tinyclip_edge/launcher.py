"""Environment variables of torchrun and accelerate, read without torch."""

from __future__ import annotations

import os

from tinyclip_edge.errors import ConfigError


def first_process() -> bool:
    """Whether this process prints and writes for all: the only one, or a launcher's first."""
    return os.environ.get("RANK", "0") == "0"


def in_a_group() -> bool:
    """Whether a launcher started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def check_batch(size: int, processes: int | None = None) -> None:
    """Raise ConfigError if a batch cannot be divided evenly among the launcher's processes."""
    count = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
    remainder = size % count
    if remainder:
        near = [n for n in (size - remainder, size - remainder + count) if n]
        raise ConfigError(
            f"optim.batch_size {size} cannot be divided evenly among {count} processes; "
            f"set it to {' or '.join(map(str, near))}, or start a different number of processes"
        )
