"""What a run would fail at, as far as names and paths show it: without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig

# Keys of ``data`` that are alternatives to one, or belong to these.
TOGETHER = {"train": ("images", "texts")}


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
    from tinyclip_edge.data import check_source
    from tinyclip_edge.data.texts import open_texts
    from tinyclip_edge.errors import DataError

    for key in pairs:
        for name in (key, *TOGETHER.get(key, ())):
            source = getattr(run.data, name)
            if source is None:
                continue
            try:
                if name.endswith("texts"):
                    open_texts(source)
                else:
                    check_source(source, allow_pipes=run.data.allow_pipes)
            except DataError as error:
                raise DataError(f"data.{name}: {error}") from None


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
