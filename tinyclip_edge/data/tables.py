"""Pairs of a CSV, TSV or JSONL file that names images and gives their captions."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

from tinyclip_edge.config.limits import USUAL, LimitsConfig
from tinyclip_edge.data.pairs import Pair, captions_of, concept_of
from tinyclip_edge.errors import DataError
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import MIB, ROW_BYTES
from tinyclip_edge.paths import is_file

TABLES = (".csv", ".tsv", ".jsonl")
IMAGE_COLUMNS = ("image", "filepath", "path", "file_name")
CAPTION_COLUMNS = ("caption", "title", "text", "captions")
CONCEPT_COLUMN = "concept"
PART = 256  # pairs; a stream shuffles parts and then pairs
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row, and where it stands in the file."""

    offset: int  # bytes
    line: int  # from 1
    image: str
    captions: tuple[str, ...]
    concept: object


class TableLines:
    """TableLines of a file as text, with count, position and hash of what was read."""

    def __init__(
        self, file: IO[bytes], offset: int = 0, line: int = 0, limit: int = ROW_BYTES
    ) -> None:
        file.seek(offset)
        self._file = file
        self._limit = limit
        self._record = offset  # where the record that is read begins
        self.offset = offset
        self.number = line
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[str]:
        while raw := self._file.readline(self._limit + 1):
            if self.offset + len(raw) - self._record > self._limit:
                raise DataError(
                    f"line {self.number + 1} belongs to a row of more than "
                    f"{self._limit:,} bytes; raise data.limits.row_mb if it is right"
                )
            text = raw.removeprefix(BOM) if self.offset == 0 else raw
            self.offset += len(raw)
            self.number += 1
            self.digest.update(raw)
            yield text.decode("utf-8")

    def begin_record(self) -> None:
        """Count the bytes of a row from here."""
        self._record = self.offset


@dataclass(frozen=True, slots=True)
class Table:
    """How a file is to be read: its form and the columns that matter."""

    path: Path
    delimiter: str | None  # None: JSON lines
    header: tuple[str, ...]  # of a CSV or TSV
    image: str
    caption: str
    concept: str | None
    limit: int = ROW_BYTES  # of a row

    @classmethod
    def of(cls, path: Path, limit: int = ROW_BYTES) -> Table:
        """Find the columns; raise DataError, which names those there are, when one is missing."""
        with _opened(path) as file:
            lines = TableLines(file, limit=limit)
            text = _guarded(path, lines)
            delimiter: str | None = None
            columns: tuple[str, ...] = ()
            if path.suffix.lower() != ".jsonl":
                first = next(text, "")
                delimiter = "\t" if "\t" in first else ","
                try:
                    columns = tuple(next(csv.reader([first], delimiter=delimiter), ()))
                except csv.Error as error:
                    raise DataError(f"{path} line 1: {error}") from None
            elif first := next((line for line in text if line.strip()), ""):
                columns = tuple(_parsed(path, lines.number, first))
        names = {column.strip().casefold(): column for column in columns}
        image = next((names[name] for name in IMAGE_COLUMNS if name in names), None)
        caption = next((names[name] for name in CAPTION_COLUMNS if name in names), None)
        if image is None or caption is None:
            what = "image" if image is None else "caption"
            wanted = IMAGE_COLUMNS if image is None else CAPTION_COLUMNS
            # Columns of a file that is no table may hold line breaks of any kind.
            found = " ".join(", ".join(columns).split())
            told = f"found: {found}" if columns else "the file is empty"
            raise DataError(f"{path} has no {what} column ({', '.join(wanted)}); {told}")
        return cls(path, delimiter, columns, image, caption, names.get(CONCEPT_COLUMN), limit)

    def rows(self, lines: TableLines) -> Iterator[TableRow]:
        """Yield the rows from where ``lines`` stands; DataError names file and line."""
        text = _guarded(self.path, lines)
        records: Iterator[str | list[str]] = text
        if self.delimiter == "\t":
            records = map(tsv_cells, text)
        elif self.delimiter is not None:
            records = csv.reader(text, delimiter=self.delimiter, strict=True)
        while True:
            # csv asks for no more lines than a record has, so the next one begins here.
            offset, line = lines.offset, lines.number + 1
            lines.begin_record()
            try:
                record = next(records, None)
            except csv.Error as error:
                raise DataError(
                    f"{self.path} line {line}: {error}; in CSV a caption with quotes stands in "
                    f"quotes, and those in it are written twice"
                ) from None
            if record is None:
                return
            if offset == 0 and self.delimiter is not None:
                continue  # the header
            if record and (not isinstance(record, str) or record.strip()):
                yield self._row(record, offset, line)

    def _row(self, record: str | list[str], offset: int, line: int) -> TableRow:
        cells: Mapping[str, Any]
        if isinstance(record, str):
            cells = _parsed(self.path, line, record)
        elif len(record) != len(self.header):
            raise DataError(
                f"{self.path} line {line} has {len(record)} columns, the header {len(self.header)}"
            )
        else:
            cells = dict(zip(self.header, record, strict=True))
        image, given = cells.get(self.image), cells.get(self.caption)
        if not isinstance(image, str) or not image.strip():
            raise DataError(f"{self.path} line {line} has no image path in '{self.image}'")
        try:
            captions = captions_of(given)
        except UnicodeError:
            raise DataError(f"{self.path} line {line} is not UTF-8") from None
        except TypeError as error:
            raise DataError(f"{self.path} line {line}: {error} in '{self.caption}'") from None
        if not captions:
            raise DataError(f"{self.path} line {line} has no caption in '{self.caption}'")
        concept = None if self.concept is None else cells.get(self.concept)
        return TableRow(offset, line, image.strip(), captions, concept)


def tsv_cells(line: str) -> list[str]:
    """Return the cells of a line of TSV, which has no quoting: a quote is a letter.

    But for a whole cell in quotes whose own quotes are doubled, as spreadsheets write it.
    """
    cells = line.rstrip("\r\n").split("\t")
    if not line.strip():
        return []
    return [_unquoted(cell) for cell in cells]


def _unquoted(cell: str) -> str:
    inner = cell[1:-1].replace('""', "")
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"' or '"' in inner:
        return cell
    return cell[1:-1].replace('""', '"')


@dataclass(frozen=True, slots=True)
class TablePart:
    """Some hundred pairs of a table, found again by their place in the file."""

    table: Table
    offset: int
    line: int
    pairs: int
    fingerprint: str

    @property
    def at_most(self) -> int:
        """Its pairs."""
        return self.pairs

    @property
    def size(self) -> None:
        """Of no use: the pairs are counted."""

    def __iter__(self) -> Iterator[Pair]:
        with _opened(self.table.path) as file:
            lines = TableLines(file, self.offset, self.line - 1, self.table.limit)
            rows = self.table.rows(lines)
            for image, group in islice(groupby(rows, key=lambda row: row.image), self.pairs):
                yield _pair(self.table.path.parent, image, list(group))


def open_table(path: Path, limits: LimitsConfig = USUAL) -> tuple[TablePart, ...]:
    """Read a table once, and keep where its parts begin; rows in turn of one image are one pair.

    Raises DataError for what cannot be read, and when none of the first images is there.
    """
    table = Table.of(path, limits.row_mb * MIB)
    starts: list[tuple[int, int]] = []
    groups, there = 0, False
    with _opened(path) as file:
        lines = TableLines(file, limit=table.limit)
        for image, rows in groupby(table.rows(lines), key=lambda row: row.image):
            first = next(rows)
            if groups % PART == 0:
                starts.append((first.offset, first.line))
            there = there or (groups < PART and is_file(path.parent / image))
            groups += 1
            if not there and groups == PART:
                break
    if groups == 0:
        raise DataError(f"{path} is empty: it has columns, but no row")
    if not there:
        raise DataError(
            f"{path}: none of the first {min(groups, PART)} images is there; paths are relative "
            f"to {path.parent}"
        )
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


def _guarded(path: Path, lines: TableLines) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError:
        raise DataError(f"{path} line {lines.number} is not UTF-8") from None
    except DataError as error:
        raise DataError(f"{path} {error}") from None


def _parsed(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path} line {line} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} line {line} is no JSON object")
    return content
