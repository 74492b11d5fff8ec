"""Selections: files that name the chosen rows of each part, read as pairs without copying any.

A file has one JSON line per part with chosen pairs, between a line about the selection and one with
the hash of all lines before it. Row numbers count only pairs with captions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.data.marks import part_mark
from tinyclip_edge.data.patterns import SCHEME, check_scheme
from tinyclip_edge.data.selected_part import AGAIN, PartName, Rows, SelectedPart, keys_digest
from tinyclip_edge.data.source import Part
from tinyclip_edge.errors import DataError
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import JSON_BYTES, is_count
from tinyclip_edge.paths import exists

SUFFIX = ".selection"
FORMAT, VERSION = "tinyclip-edge-selection", 1


@dataclass(frozen=True, slots=True)
class Choice:
    """Chosen pairs of one part, for the file."""

    name: PartName
    mark: str  # of the whole part
    rows: Rows
    of: int
    keys: str  # hash of the keys of its pairs

    @classmethod
    def of_part(
        cls, part: Part, name: PartName, rows: Rows, of: int, marks: npt.NDArray[np.uint64]
    ) -> Choice:
        """Choose ``rows`` of a part that has ``of`` pairs; ``marks`` are the marks of their keys.

        If the part is itself a selection, the rows are those of the part it was selected from.
        """
        keys = keys_digest(marks)
        if isinstance(part, SelectedPart):
            return cls(part.name, part_mark(part.whole), part.rows[rows], part.of, keys)
        return cls(name, part_mark(part), rows, of, keys)

    def line(self, folder: Path) -> dict[str, Any]:
        """Return JSON values; a path below ``folder`` is relative, so that both can be moved."""
        source = self.name.source
        if not SCHEME.match(source):
            source = os.path.abspath(source)  # noqa: PTH100 - links stay
            with suppress(ValueError):
                source = Path(source).relative_to(os.path.abspath(folder)).as_posix()  # noqa: PTH100
        return {
            "source": source,
            "part": self.name.number,
            "mark": self.mark,
            "of": self.of,
            "keys": self.keys,
            "rows": self.rows.tolist(),
        }


def write_selection(path: Path, about: Mapping[str, Any], choices: Iterable[Choice]) -> None:
    """Write a selection atomically. Raises DataError if it cannot be written."""
    with file_written_aside(path) as file:
        digest = hashlib.sha256()

        def write(line: Mapping[str, Any]) -> None:
            content = json.dumps(line, separators=(",", ":")).encode() + b"\n"
            digest.update(content)
            file.write(content)

        write({"format": FORMAT, "version": VERSION, **about})
        for choice in choices:
            if len(choice.rows):
                write(choice.line(path.parent))
        write({"sha256": digest.hexdigest()})


def open_selection(
    path: Path, open_name: Callable[[str], tuple[Part, ...]], *, allow_pipes: bool
) -> tuple[SelectedPart, ...]:
    """Return the chosen pairs of a file; ``open_name`` returns the parts of a file or address.

    Raises DataError for a file that is not a selection or has changed, and for a source that is
    missing or has changed since.
    """
    parts: list[SelectedPart] = []
    opened: dict[str, tuple[Part, ...]] = {}
    for line in _lines(path):
        name, rows = _checked(path, line)
        source = _located(path, name.source, allow_pipes=allow_pipes)
        if source not in opened:
            opened = {source: open_name(source)}  # lines of a source are adjacent
        whole = dict(enumerate(opened[source])).get(name.number)
        if whole is None or part_mark(whole) != line["mark"]:
            raise DataError(
                f"{source} has changed in size or content since {path} was written; {AGAIN}"
            )
        parts.append(
            SelectedPart(
                whole, PartName(source, name.number), rows, line["of"], line["keys"], str(path)
            )
        )
    if not parts:
        raise DataError(f"{path} has no pairs; {AGAIN}")
    return tuple(parts)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of parts; raise DataError unless the file is complete and unchanged."""
    digest = hashlib.sha256()
    last: dict[str, Any] | None = None
    try:
        with path.open("rb") as file:
            head = _parsed(path, file)
            if head is None or head[1].get("format") != FORMAT:
                raise DataError(f"{path} is not a selection of `tinyclip-edge select`")
            if head[1].get("version") != VERSION:
                raise DataError(f"{path} was written by a newer version; upgrade tinyclip-edge")
            digest.update(head[0])
            while (line := _parsed(path, file)) is not None:
                if last is not None:
                    yield last
                content, last = line
                if "sha256" not in last:
                    digest.update(content)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    if last is None or last.get("sha256") != digest.hexdigest():
        raise DataError(f"{path} is truncated or has changed; {AGAIN}")


def _parsed(path: Path, file: IO[bytes]) -> tuple[bytes, dict[str, Any]] | None:
    content = file.readline(JSON_BYTES)
    if not content:
        return None
    try:
        value = parse_json(content, unique_keys=True)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DataError(f"{path} is truncated or not a selection of `tinyclip-edge select`")
    return content, value


def _checked(path: Path, line: Mapping[str, Any]) -> tuple[PartName, Rows]:
    values = [line.get(name) for name in ("source", "mark", "keys")]
    rows, count, number = line.get("rows"), line.get("of"), line.get("part")
    valid = (
        all(isinstance(value, str) for value in values)
        and is_count(count)
        and is_count(number, minimum=0)
        and isinstance(rows, list)
        and len(rows) > 0
        and all(is_count(row, minimum=0) for row in rows)
        and rows[-1] < count < 1 << 32
        and all(first < second for first, second in pairwise(rows))
    )
    if not valid:
        raise DataError(f"{path} has an invalid line; {AGAIN}")
    return PartName(str(values[0]), int(number or 0)), np.array(rows, np.uint32)


def _located(path: Path, source: str, *, allow_pipes: bool) -> str:
    """Return the path or address of a source; raise DataError if it may not be read."""
    scheme = SCHEME.match(source)
    if scheme is not None:
        check_scheme(source, scheme[1], allow_pipes=allow_pipes)
        return source
    located = path.parent / source
    if located.suffix.lower() == SUFFIX:
        raise DataError(f"{path} names another selection, {source}; {AGAIN}")
    if not exists(located):
        raise DataError(f"{path} names {located}, which does not exist; move it back, or {AGAIN}")
    return str(located)
