"""Pairs of a CSV, TSV or JSONL file with image paths and captions."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

from tinyclip_edge.config.source_options import DEFAULT, SourceOptions
from tinyclip_edge.data.cuts import FaultySampleError, Losses
from tinyclip_edge.data.pairs import BadSamples, Pair, captions_of, concept_of
from tinyclip_edge.data.table_lines import TAB, Record, TableLines, header_cells, read_records
from tinyclip_edge.errors import DataError
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import MIB, ROW_BYTES
from tinyclip_edge.paths import is_file
from tinyclip_edge.runtime.image_formats import is_image_name

TABLES = (".csv", ".tsv", ".jsonl")
JSON_LINES = ".jsonl"
IMAGE_COLUMNS = ("image", "filepath", "path", "file_name")
CAPTION_COLUMNS = ("caption", "title", "text", "captions")
CONCEPT_COLUMN = "concept"
URL = re.compile(r"https?://")
DELIMITERS = (TAB, ",", ";", "|")
PART = 256  # pairs; a stream shuffles parts and then pairs
JUDGED = 10_000  # faults between two checks of their share


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row, and its place in the file."""

    offset: int  # bytes
    line: int  # from 1
    image: str
    captions: tuple[str, ...]
    concept: object


@dataclass(frozen=True, slots=True)
class Table:
    """Format of a file, and the columns to read."""

    path: Path
    delimiter: str | None  # None: JSON lines
    header: tuple[str, ...]  # of a CSV or TSV
    image: str
    caption: str | None  # None: it has no captions
    concept: str | None
    limit: int = ROW_BYTES  # of a row
    captionless: bool = False  # see SourceOptions

    @classmethod
    def of(cls, path: Path, options: SourceOptions = DEFAULT) -> Table:
        """Find the columns; raise DataError, which lists the existing ones, if one is missing."""
        limit = options.limits.row_mb * MIB
        delimiter: str | None = None
        with _opened(path) as file:
            lines = TableLines(path, file, limit=limit)
            if path.suffix.lower() == JSON_LINES:
                columns = _json_columns(lines)
            else:
                delimiter, columns = _header(lines, options.delimiter)
        names = {column.strip().casefold(): column for column in columns}
        image = _column(path, "image", options.columns.image, IMAGE_COLUMNS, names)
        caption = None
        if (
            not options.captionless
            or options.columns.text
            or not names.keys().isdisjoint(CAPTION_COLUMNS)
        ):
            caption = _column(path, "caption", options.columns.text, CAPTION_COLUMNS, names)
        for name in filter(None, (image, caption)):
            if sum(column.strip().casefold() == name.strip().casefold() for column in columns) > 1:
                raise DataError(f"{path} has several columns '{name}'; rename all but one")
        concept = names.get(CONCEPT_COLUMN)
        return cls(path, delimiter, columns, image, caption, concept, limit, options.captionless)

    def rows(
        self, lines: TableLines, losses: Losses, *, judged: bool = False
    ) -> Iterator[TableRow]:
        """Yield the rows from the position of ``lines``; add faulty ones to ``losses``.

        Raises DataError for unbalanced quotes and, if ``judged``, if so many rows are faulty that
        their messages would fill the memory.
        """
        count = 0
        for record in read_records(lines, self.delimiter, len(self.header)):
            if record.offset == 0 and self.delimiter is not None:
                continue  # the header
            if len(record.lines) > 1:
                self._check_lines(record)
            try:
                row = self._row(record)
            except FaultySampleError as error:
                losses.add_fault(f"{self.path} {record.place} {error}")
                if judged and len(losses.faults) % JUDGED == 0:
                    BadSamples(str(self.path), losses).check(count, final=True)
                continue
            count += 1
            yield row

    def _check_lines(self, record: Record) -> None:
        """Raise DataError for a quoted caption that swallows further rows."""
        at = self.header.index(self.image)
        cells = [line.split(self.delimiter)[at : at + 1] for line in record.lines]
        own = [name for one in cells for name in one if self._names_image(name.strip('"\r\n '))]
        if len(own) > 1:
            raise DataError(
                f"{self.path} {record.place} are one row, because a quote opens in the first and "
                f"closes in the last, but {len(own):,} of them name an image; put a caption that "
                "contains quotes in quotes and double those inside it, or write the table as TSV "
                "or JSON lines"
            )

    def _names_image(self, name: str) -> bool:
        return is_image_name(name) or is_file(self.path.parent / name)

    def _row(self, record: Record) -> TableRow:
        cells: Mapping[str, Any]
        if self.delimiter is None:
            cells = _parsed(record.lines[0])
        elif len(record.cells) != len(self.header):
            raise FaultySampleError(
                f"has {len(record.cells):,} columns, but the header has {len(self.header)}"
            )
        else:
            cells = dict(zip(self.header, record.cells, strict=True))
        image = cells.get(self.image)
        text = None if self.caption is None else cells.get(self.caption)
        if not isinstance(image, str) or not image.strip():
            raise FaultySampleError(f"has no image path in '{self.image}'")
        try:
            image.encode()
            captions = captions_of(text)
        except UnicodeError:
            raise FaultySampleError("is not UTF-8") from None
        except TypeError as error:
            raise FaultySampleError(f"cannot be used: {error} in '{self.caption}'") from None
        if not captions and not self.captionless:
            raise FaultySampleError(f"has no caption in '{self.caption}'")
        concept = None if self.concept is None else cells.get(self.concept)
        return TableRow(record.offset, record.line, image.strip(), captions, concept)


@dataclass(frozen=True, slots=True)
class TablePart:
    """A few hundred pairs of a table, located by their position in the file."""

    table: Table
    offset: int
    line: int
    pairs: int
    fingerprint: str

    @property
    def at_most(self) -> int:
        """The number of its pairs."""
        return self.pairs

    @property
    def size(self) -> None:
        """None, because the pairs are counted."""

    def __iter__(self) -> Iterator[Pair]:
        path = self.table.path
        with _opened(path) as file:
            lines = TableLines(path, file, self.offset, self.line - 1, self.table.limit)
            rows = self.table.rows(lines, Losses())  # recorded when the table was opened
            for image, group in islice(groupby(rows, key=lambda row: row.image), self.pairs):
                yield _pair(path.parent, image, list(group))


def open_table(
    path: Path, losses: Losses, options: SourceOptions = DEFAULT
) -> tuple[TablePart, ...]:
    """Read a table once and index its parts; adjacent rows with the same image are one pair.

    Faulty rows are added to ``losses``. Raises DataError if the file is unreadable or has no pairs,
    or if none of the first images exists.
    """
    table = Table.of(path, options)
    starts: list[tuple[int, int]] = []
    table_losses = Losses()
    groups, there = 0, False
    with _opened(path) as file:
        lines = TableLines(path, file, limit=table.limit)
        for image, rows in groupby(
            table.rows(lines, table_losses, judged=True), key=lambda row: row.image
        ):
            first = next(rows)
            if groups % PART == 0:
                starts.append((first.offset, first.line))
            there = there or (groups < PART and is_file(path.parent / image))
            groups += 1
            if not there and groups == PART:
                break
    table_losses.count(str(path), groups)
    if groups == 0:
        BadSamples(str(path), table_losses).check(0, final=True)
        raise DataError(f"{path} is empty: it has columns, but no rows")
    if not there:
        fault = f"none of the first {min(groups, PART)} images exists"
        if URL.match(image):
            raise DataError(
                f"{path}: {fault}: they are web addresses; download them with img2dataset"
            )
        raise DataError(f"{path}: {fault}; paths are relative to {path.parent}")
    losses.merge(table_losses)
    digest = lines.digest.hexdigest()[:16]
    return tuple(
        TablePart(table, offset, line, min(PART, groups - number * PART), f"{digest}@{offset}")
        for number, (offset, line) in enumerate(starts)
    )


def _pair(folder: Path, image: str, rows: list[TableRow]) -> Pair:
    captions = tuple(dict.fromkeys(caption for row in rows for caption in row.captions))
    concept = concept_of(rows[0].concept, captions)
    return Pair(key=image, image=folder / image, captions=captions, concept=concept)


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from None


def _header(lines: TableLines, delimiter: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the delimiter and the columns of the first line."""
    first = next(iter(lines), "")
    if delimiter is None:
        delimiter = TAB if TAB in first else ","
    try:
        first.encode()
        return delimiter, header_cells(first, delimiter)
    except UnicodeError:
        raise DataError(f"{lines.path} line 1 is not UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{lines.path} line 1: {error}") from None


def _json_columns(lines: TableLines) -> tuple[str, ...]:
    """Return the keys of the first valid row."""
    fault = None
    for record in islice(read_records(lines, None), PART):
        try:
            return tuple(_parsed(record.lines[0]))
        except FaultySampleError as error:
            fault = fault or DataError(f"{lines.path} {record.place} {error}")
    if fault is not None:
        raise fault
    return ()


def _column(
    path: Path, role: str, configured: str | None, usual: tuple[str, ...], names: Mapping[str, str]
) -> str:
    """Return the configured column, or the first usual one; raise DataError if there is none."""
    for name in usual if configured is None else (configured.strip().casefold(),):
        if name in names:
            return names[name]
    # The columns of a file that is not a table may contain line breaks of any kind.
    columns = " ".join(", ".join(names.values()).split())
    cure = f"found: {columns}" if names else "the file is empty"
    if configured is not None:
        key = "image" if role == "image" else "text"
        raise DataError(f"{path} has no column '{configured}' (data.columns.{key}); {cure}")
    alternative = next((d for d in DELIMITERS if len(names) == 1 and d in columns), None)
    if alternative is not None and path.suffix.lower() != JSON_LINES:
        cure += f"; set data.delimiter to '{alternative}' if that separates the columns"
    else:
        cure += f"; rename one, or set data.columns.{'image' if role == 'image' else 'text'}"
    raise DataError(f"{path} has no {role} column ({', '.join(usual)}); {cure}")


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise FaultySampleError(f"is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise FaultySampleError("is not a JSON object")
    return content
