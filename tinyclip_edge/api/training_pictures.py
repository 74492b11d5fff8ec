"""Pictures that a model was trained on, by which its bundle recognises unfamiliar ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.api.export_pairs import STARTER, evenly_spaced
from tinyclip_edge.config import load_config
from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.evaluation.run_pairs import NamedPairs, named_pairs
from tinyclip_edge.evaluation.sets import pair_set
from tinyclip_edge.models.names import STARTER_TEACHER
from tinyclip_edge.models.runs import EVENTS
from tinyclip_edge.paths import is_file

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig
    from tinyclip_edge.runtime.protocol import ImageInput

MAX_PICTURES = 3072


def training_pictures(model: str, data: str) -> Callable[[], Sequence[ImageInput]] | None:
    """Return a function that reads training pictures, None if they are not known.

    They are known for the starter teacher and for a run on pairs, or its student's folder, but only
    if ``data``, the verification pairs, are the run's own: others would say nothing about the
    training. All sets of the starter kit count as one.
    """
    if model == STARTER_TEACHER:
        return _starter if data.startswith(STARTER) else None
    config = run_config(Path(model))
    if config is None or config.data.train is None:
        return None
    try:
        verified = _patterns(named_pairs(data).source)
    except TinyClipError:
        return None
    train, own = _patterns(config.data.train), _patterns(config.data.val)
    if _is_starter(train):
        return _starter if _is_starter(verified) else None
    # A report or an export never runs commands from a run's configuration, whoever wrote it.
    options = replace(config.data.source_options, allow_pipes=False)
    pairs = NamedPairs(config.data.train, options)
    return (lambda: pair_set(pairs, MAX_PICTURES).images) if verified in (own, train) else None


def _starter() -> Sequence[ImageInput]:
    """Return pictures evenly spaced over the split, of all its styles."""
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    pictures = [sample.webp for sample in read_split(kit_path(), "train")]
    return [pictures[i] for i in evenly_spaced(len(pictures), MAX_PICTURES)]


def _is_starter(patterns: Sequence[str]) -> bool:
    return bool(patterns) and all(pattern.startswith(STARTER) for pattern in patterns)


def _patterns(source: str | Sequence[str] | None) -> tuple[str, ...]:
    return (source,) if isinstance(source, str) else tuple(source or ())


def run_config(model: Path) -> RunConfig | None:
    """Return the configuration of a run, by its folder or its student's; None for other folders."""
    for folder in (model, model.parent):
        if is_file(folder / EVENTS):
            try:
                return load_config(folder / "config.yaml")
            except TinyClipError:
                return None
    return None
