"""The configuration of a run, checked as far as possible without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinyclip_edge.api.run_checks import checked_run
from tinyclip_edge.cli.options import split_config_args

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig


def read_run(
    args: list[str] | None,
    default: str = "starter",
    *,
    pairs: Sequence[str] = ("train", "val"),
) -> RunConfig:
    """Return the configuration of ``[CONFIG] key=value …``.

    ``pairs`` are the keys of ``data`` whose files the command reads. Raises ConfigError, ModelError
    for an unknown teacher or student, and DataError for missing pairs.
    """
    return checked_run(*split_config_args(args, default), pairs)
