"""Open training data: the starter kit, shards, tables, image folders, selections, texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tinyclip_edge.config import DataConfig
from tinyclip_edge.config.source_options import DEFAULT, SourceOptions
from tinyclip_edge.config.sources import SourceConfig
from tinyclip_edge.data.coco import SUFFIX, open_coco
from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.folders import open_folder
from tinyclip_edge.data.patterns import SCHEME, matching_names
from tinyclip_edge.data.remote import RemoteShard
from tinyclip_edge.data.selected_part import PartName, SelectedPart
from tinyclip_edge.data.selection_file import SUFFIX as SELECTION
from tinyclip_edge.data.selection_file import open_selection
from tinyclip_edge.data.shards import Shard
from tinyclip_edge.data.source import PairSource, Part
from tinyclip_edge.data.tables import TABLES, open_table
from tinyclip_edge.data.texts import open_texts
from tinyclip_edge.errors import one_line
from tinyclip_edge.paths import is_folder
from tinyclip_edge.plugins import DATA, call_plugin, scheme_of


def open_source(source: str | Sequence[str], options: SourceOptions = DEFAULT) -> PairSource:
    """Return the parts of ``starter:SPLIT`` or of one or more patterns.

    A pattern is a path or URL of shards, tables, selections or an image folder; it may contain
    braces (``{000..009}``) and, if local, wildcards. ``pipe:COMMAND`` is refused unless the options
    allow it; files above their limits are always refused. Raises DataError if a pattern matches
    nothing, or if a table, selection or folder cannot be read.
    """
    return open_named(source, options)[0]


def open_named(
    source: str | Sequence[str], options: SourceOptions = DEFAULT
) -> tuple[PairSource, tuple[PartName, ...]]:
    """Return a source as ``open_source`` does, and the names of its parts."""
    patterns = [source] if isinstance(source, str) else list(source)
    parts: dict[str, tuple[Part, ...]] = {}
    losses = Losses()
    for pattern in patterns:
        for name in matching_names(pattern, allow_pipes=options.allow_pipes):
            if name not in parts:
                parts[name] = _parts(name, losses, options)
    opened = PairSource(
        one_line(", ".join(patterns)),
        tuple(part for group in parts.values() for part in group),
        losses,
    )
    bounds = [part.at_most for part in opened.parts]
    if None not in bounds:  # otherwise the share of faulty samples is checked while reading
        opened.check(sum(bound for bound in bounds if bound is not None))
    return opened, tuple(
        part.name if isinstance(part, SelectedPart) else PartName(name, number)
        for name, group in parts.items()
        for number, part in enumerate(group)
    )


def open_training(data: DataConfig) -> PairSource:
    """Return the training data of a run: pairs, or pictures with unpaired texts.

    The sources of a mixture are joined. Raises DataError like ``open_source`` and ``open_texts``.
    """
    return joined(open_sources(data))


def open_sources(data: DataConfig) -> tuple[PairSource, ...]:
    """Return the sources of a run, several for a mixture. Raises like ``open_training``."""
    return tuple(open_configured(source, data.source_options) for source in data.sources)


def joined(sources: Sequence[PairSource]) -> PairSource:
    """Return the parts of all sources under one name; unpaired texts of several are dropped."""
    if len(sources) == 1:
        return sources[0]
    losses = Losses()
    for source in sources:
        losses.merge(source.losses)
    parts = tuple(part for source in sources for part in source.parts)
    return PairSource(" + ".join(source.name for source in sources), parts, losses)


def open_configured(source: SourceConfig, options: SourceOptions) -> PairSource:
    """Return pairs, or pictures with unpaired texts. Raises DataError."""
    if source.pairs is not None:
        return open_source(source.pairs, options)
    assert source.images is not None
    texts = open_texts(source.texts)
    opened = open_source(source.images, replace(options, captionless=True))
    return replace(opened, texts=texts)


def _parts(name: str, losses: Losses, options: SourceOptions) -> tuple[Part, ...]:
    if (plugin := scheme_of(DATA, name)) is not None:
        return tuple(call_plugin(DATA, *plugin, options))
    if SCHEME.match(name):
        return (RemoteShard(name, losses, options.limits, options.captionless),)
    return _local_parts(Path(name), losses, options)


def _local_parts(path: Path, losses: Losses, options: SourceOptions) -> tuple[Part, ...]:
    suffix = path.suffix.lower()
    if is_folder(path):
        return open_folder(path, losses, options)
    if suffix == SELECTION:
        captioned = replace(options, captionless=False)  # its rows count only captioned pairs
        return open_selection(
            path, lambda each: _parts(each, losses, captioned), allow_pipes=options.allow_pipes
        )
    if suffix in TABLES:
        return open_table(path, losses, options)
    if suffix == SUFFIX:
        return open_coco(path, losses)
    return (Shard(path, losses, options.limits, options.captionless),)
