"""The configuration of a run, checked as far as possible without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    from tinyclip_edge.config import load_config

    name, overrides = split_config_args(args, default)
    run = load_config(name, overrides)
    check_run(run, pairs)
    return run


def check_pairs(run: RunConfig, pairs: Sequence[str] = ("train", "val")) -> None:
    """Raise DataError, which names the key to set, for missing pairs."""
    from tinyclip_edge.data import check_source
    from tinyclip_edge.errors import DataError

    for key in pairs:
        source = getattr(run.data, key)
        if source is None:
            continue
        try:
            check_source(source, allow_pipes=run.data.allow_pipes)
        except DataError as error:
            raise DataError(f"data.{key}: {error}") from None


def check_vocab(run: RunConfig) -> None:
    """Raise ConfigError or DataError for a file of ``student.vocab`` that cannot be read."""
    from tinyclip_edge.data.corpus import corpus_lines

    if isinstance(run.student.vocab, str):
        corpus_lines(run.student.vocab)


def check_run(run: RunConfig, pairs: Sequence[str]) -> None:
    """Raise the first error that a run would meet, judging by names and paths."""
    from tinyclip_edge.models import check_model
    from tinyclip_edge.models.zoo import zoo_entry

    check_model(run.teacher.model, run.teacher.pretrained)
    for member in run.teacher.ensemble:
        check_model(member.model, member.pretrained)
    if isinstance(run.student.model, str):
        zoo_entry(run.student.model)
    check_pairs(run, pairs)
