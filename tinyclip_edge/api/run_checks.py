"""Checks of a run that need only names and paths, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig
    from tinyclip_edge.config.sources import Patterns, TextsSource


def checked_run(
    config: RunConfig | Mapping[str, Any] | str | Path,
    overrides: Sequence[str],
    pairs: Sequence[str],
) -> RunConfig:
    """Return the configuration of a run whose files all exist. Raises TinyClipError.

    ``pairs`` are the keys of ``data`` whose files are read.
    """
    from tinyclip_edge.config import load_config, make_config

    if isinstance(config, (str, Path)):
        run = load_config(config, overrides)
    else:
        run = make_config(config, overrides)
    check_run(run, pairs)
    return run


def check_pairs(run: RunConfig, pairs: Sequence[str] = ("train", "val")) -> None:
    """Raise DataError, naming the key to set, for missing pairs, pictures or texts."""
    if "train" in pairs:
        for number, source in enumerate(run.data.sources, 1):
            prefix = f"data.mix[{number}]." if run.data.mix else "data."
            _check_source(run, f"{prefix}{'pairs' if run.data.mix else 'train'}", source.pairs)
            _check_source(run, f"{prefix}images", source.images)
            _check_texts(f"{prefix}texts", source.texts)
    if "val" in pairs:
        _check_source(run, "data.val", run.data.val)
        _check_source(run, "data.val_images", run.data.val_images)
        _check_texts("data.val_texts", run.data.val_texts)
    importance = run.inherit.importance
    for part, calibration in ({} if importance is None else importance.parts).items():
        if not isinstance(calibration, float):
            prefix = f"inherit.importance.{part}."
            _check_source(run, f"{prefix}pairs", calibration.pairs)
            _check_source(run, f"{prefix}images", calibration.images)
            _check_texts(f"{prefix}texts", calibration.texts)


def _check_source(run: RunConfig, key: str, source: Patterns | None) -> None:
    """Raise DataError, naming the key, for missing pairs or pictures."""
    from tinyclip_edge.data import check_source

    if source is not None:
        with _named_by(key):
            check_source(source, allow_pipes=run.data.allow_pipes)


def _check_texts(key: str, source: TextsSource | None) -> None:
    """Raise DataError, naming the key, for missing texts."""
    from tinyclip_edge.data.texts import open_texts

    if source is not None:
        with _named_by(key):
            open_texts(source)


@contextmanager
def _named_by(key: str) -> Iterator[None]:
    """Prefix a DataError of the block with a key."""
    from tinyclip_edge.errors import DataError

    try:
        yield
    except DataError as error:
        raise DataError(f"{key}: {error}") from None


def check_vocab(run: RunConfig) -> None:
    """Raise ConfigError or DataError for a file of ``student.vocab`` that cannot be read."""
    from tinyclip_edge.data.corpus import corpus_lines

    if isinstance(run.student.vocab, str):
        corpus_lines(run.student.vocab)


def check_run(run: RunConfig, pairs: Sequence[str]) -> None:
    """Raise the first error that a run would meet, as far as names and paths show it."""
    from tinyclip_edge.models import check_model
    from tinyclip_edge.models.zoo import zoo_entry

    check_model(run.teacher.model, run.teacher.pretrained)
    for member in run.teacher.ensemble:
        check_model(member.model, member.pretrained)
    if isinstance(run.student.model, str):
        zoo_entry(run.student.model)
    check_pairs(run, pairs)
