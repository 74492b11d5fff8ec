"""What a run would fail at, as far as names and paths show it: without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Return the configuration of a run, of which all is there. Raises TinyClipError.

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
    """Raise DataError, which names the key to set, for missing pairs, pictures or texts."""
    if "train" in pairs:
        for number, source in enumerate(run.data.sources, 1):
            prefix = f"data.mix[{number}]." if run.data.mix else "data."
            _check_source(run, f"{prefix}{'pairs' if run.data.mix else 'train'}", source.pairs)
            _check_source(run, f"{prefix}images", source.images)
            _check_source(run, f"{prefix}texts", source.texts)
    if "val" in pairs:
        _check_source(run, "data.val", run.data.val)
        _check_source(run, "data.val_images", run.data.val_images)
        _check_source(run, "data.val_texts", run.data.val_texts)
    importance = run.inherit.importance
    for part, calibration in ({} if importance is None else importance.parts).items():
        if not isinstance(calibration, float):
            for name in ("pairs", "images", "texts"):
                key = f"inherit.importance.{part}.{name}"
                _check_source(run, key, getattr(calibration, name))


def _check_source(run: RunConfig, key: str, source: Patterns | TextsSource | None) -> None:
    """Raise DataError, which names the key, for pictures or texts that are not there."""
    from tinyclip_edge.data import check_source
    from tinyclip_edge.data.texts import open_texts
    from tinyclip_edge.errors import DataError

    if source is None:
        return
    try:
        if key.endswith("texts"):
            open_texts(source)
        else:
            assert isinstance(source, (str, list))  # only texts have sections
            check_source(source, allow_pipes=run.data.allow_pipes)
    except DataError as error:
        raise DataError(f"{key}: {error}") from None


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
