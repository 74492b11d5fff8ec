"""Parts of a source that are embedded as a whole, into one file each: a shard, or many rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from tinyclip_edge.data.coco import CocoPart
from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.folders import FolderPart
from tinyclip_edge.data.marks import name_mark, part_mark
from tinyclip_edge.data.pairs import Pair
from tinyclip_edge.data.remote import RemoteShard
from tinyclip_edge.data.selected_part import SelectedPart
from tinyclip_edge.data.shards import Shard
from tinyclip_edge.data.source import Part
from tinyclip_edge.data.tables import TablePart
from tinyclip_edge.errors import DataError

PARTS = 64  # parts of 256 rows of a table or folder that go into one file
_NAME_CHARS = 80


@dataclass(frozen=True, slots=True)
class Unit:
    """What becomes one file."""

    source: str  # path or URL, for messages; with a number if it has several units
    mark: str  # of the content: a file with the same mark need not be written again
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """Name of its file."""
        plain = re.sub(r"\.tar(\.gz)?$", "", self.source.replace("\\", "/").rpartition("/")[2])
        safe = re.sub(r"[^\w.-]+", "-", plain, flags=re.ASCII)[:_NAME_CHARS].strip(".-")
        return f"{safe or 'shard'}-{self.mark[:8]}.parquet"

    @property
    def pictures(self) -> int | None:
        """Number of its pictures, None for a shard that has not been read."""
        counts = [part.pairs if part.pairs is not None else _rows(part) for part in self.parts]
        return None if None in counts else sum(cast("list[int]", counts))

    @property
    def size(self) -> int | None:
        """Bytes of a shard; None where they are unknown."""
        return self.parts[0].size if len(self.parts) == 1 else None

    def pairs(self, losses: Losses) -> Iterator[Pair]:
        """Read the pairs, and add what is lost to ``losses``."""
        for part in self.parts:
            yield from with_losses(part, losses)


def units_of(parts: Iterable[Part]) -> list[Unit]:
    """Return the units of a source's parts, in order, with no losses yet.

    Raise DataError for two shards of the same name, size and beginning.
    """
    units: list[Unit] = []
    for origin, group in groupby(parts, key=_origin):
        listed = [with_losses(part, Losses()) for part in group]
        runs = [tuple(listed[start : start + PARTS]) for start in range(0, len(listed), PARTS)]
        for number, run in enumerate(runs):
            source = origin if isinstance(run[0], (Shard, RemoteShard)) else f"{origin}#{number}"
            units.append(Unit(source, unit_mark(run), run))
    by_mark: dict[str, Unit] = {}
    for unit in units:
        if (other := by_mark.setdefault(unit.mark, unit)) is not unit:
            raise DataError(
                f"{other.source} and {unit.source} have the same name, size and beginning; leave "
                "one of them out"
            )
    return units


def unit_mark(parts: Iterable[Part]) -> str:
    """Return 16 hex digits that identify the content of a unit's parts; see ``part_mark``."""
    return name_mark("\n".join(map(part_mark, parts)))


def _origin(part: Part) -> str:
    if isinstance(part, SelectedPart):
        return _origin(part.whole)
    if isinstance(part, Shard):
        return str(part.path.absolute())
    if isinstance(part, RemoteShard):
        return part.url
    if isinstance(part, TablePart):
        return str(part.table.path.absolute())
    if isinstance(part, (FolderPart, CocoPart)):
        return str(part.folder.absolute())
    return part.fingerprint


def _rows(part: Part) -> int | None:
    return part.at_most if isinstance(part, FolderPart) else None


def with_losses(part: Part, losses: Losses) -> Part:
    """Return a copy of a part that adds its losses to ``losses`` and has absolute paths."""
    if isinstance(part, SelectedPart):
        return replace(part, whole=with_losses(part.whole, losses))
    changes: dict[str, Any] = {}
    names = {field.name for field in fields(cast("Any", part))} if _is_ours(part) else set()
    if "losses" in names:
        changes["losses"] = losses
    for name in names & {"path", "folder"}:
        changes[name] = Path(getattr(part, name)).absolute()
    if isinstance(part, TablePart):
        changes["table"] = replace(part.table, path=part.table.path.absolute())
    return cast("Part", replace(cast("Any", part), **changes)) if changes else part


def _is_ours(part: Part) -> bool:
    return isinstance(part, (Shard, RemoteShard, TablePart, FolderPart, CocoPart))
