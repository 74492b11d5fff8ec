"""The records of a CSV, TSV or JSONL file with their line numbers."""

from __future__ import annotations

import codecs
import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tinyclip_edge.errors import DataError
from tinyclip_edge.limits import ROW_BYTES

TAB = "\t"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
QUOTES = (
    "in CSV, put a caption that contains quotes in quotes and double those inside it; in TSV and "
    "JSON lines, quotes are ordinary characters"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One row, not yet split into columns."""

    offset: int  # bytes
    line: int  # of the file, from 1
    lines: tuple[str, ...]  # as they are in the file
    cells: tuple[str, ...] = ()  # of a CSV or TSV

    @property
    def place(self) -> str:
        """Its line numbers, for messages."""
        return _place(self.line, len(self.lines))


class TableLines:
    """Lines of a file as text, with count, position and hash of the bytes read.

    Bytes that are not UTF-8 become surrogates, which valid UTF-8 never contains.
    """

    def __init__(
        self,
        path: Path,
        file: IO[bytes],
        offset: int = 0,
        line: int = 0,
        limit: int = ROW_BYTES,
    ) -> None:
        file.seek(offset)
        self.path = path
        self._file = file
        self._limit = limit
        self._record = offset  # start of the current record
        self.record_lines: list[str] = []  # lines of the current record
        self.offset = offset
        self.number = line
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[str]:
        while raw := self._file.readline(self._limit + 1):
            if self.offset == 0:
                self._check_text(raw)
            if self.offset + len(raw) - self._record > self._limit:
                raise DataError(
                    f"{self.path} line {self.number + 1} belongs to a row of more than "
                    f"{self._limit:,} bytes; raise data.limits.row_mb if that is correct"
                )
            text = raw.removeprefix(codecs.BOM_UTF8) if self.offset == 0 else raw
            self.offset += len(raw)
            self.number += 1
            self.digest.update(raw)
            self.record_lines.append(text.decode("utf-8", "surrogateescape"))
            yield self.record_lines[-1]

    def begin_record(self) -> None:
        """Start counting the lines and bytes of a row."""
        self._record = self.offset
        self.record_lines = []

    def _check_text(self, first: bytes) -> None:
        """Raise DataError if the first line has unsupported line endings or encoding."""
        if first.startswith(UTF16):
            raise DataError(f"{self.path} is UTF-16; save it as UTF-8")
        if b"\r" in first.rstrip(b"\r\n"):
            raise DataError(
                f"{self.path} has CR line endings, as on old Macs; convert them to LF: tr '\\r' "
                "'\\n'"
            )


def read_records(lines: TableLines, delimiter: str | None, columns: int = 0) -> Iterator[Record]:
    """Yield the rows from the position of ``lines``, without blank ones.

    ``delimiter``: a tab for TSV, which has no quoting and no line breaks in a cell; any other
    character for CSV; None for JSON lines. ``columns``: the expected number of columns. Raises
    DataError for unbalanced quotes.
    """
    text = iter(lines)
    rows = None if delimiter in (None, TAB) else csv.reader(text, delimiter=delimiter, strict=True)
    begun = 0  # line of TSV that ends in a cell with an unclosed quote
    while True:
        # csv reads no more lines than the record has, so the next record starts here.
        offset, line = lines.offset, lines.number + 1
        lines.begin_record()
        try:
            cells = next(rows, None) if rows is not None else None
        except csv.Error as error:
            raise DataError(_csv_fault(lines, line, error)) from None
        if rows is None:
            next(text, None)
        if not lines.record_lines:
            return
        if not any(part.strip() for part in lines.record_lines):
            continue
        if delimiter == TAB:
            cells = tsv_cells(lines.record_lines[0])
            if begun and len(cells) < columns:
                raise DataError(
                    f"{lines.path} {_place(begun, line - begun + 1)}: a quoted cell continues on "
                    "the next line; TSV cannot contain line breaks, so write CSV or JSON lines"
                )
            begun = line if _is_open(cells[-1]) else 0
        yield Record(offset, line, tuple(lines.record_lines), tuple(cells or ()))


def header_cells(first: str, delimiter: str) -> tuple[str, ...]:
    """Return the cells of a header line; raise csv.Error if it is malformed."""
    return tuple(next(csv.reader([first], delimiter=delimiter), ()))


def tsv_cells(line: str) -> list[str]:
    """Return the cells of a line of TSV, where a quote is an ordinary character.

    Only a quoted cell with doubled inner quotes, as spreadsheets write it, is unquoted.
    """
    return [_unquoted(cell) for cell in line.rstrip("\r\n").split(TAB)]


def _unquoted(cell: str) -> str:
    inner = cell[1:-1].replace('""', "")
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"' or '"' in inner:
        return cell
    return cell[1:-1].replace('""', '"')


def _is_open(cell: str) -> bool:
    return cell.startswith('"') and cell.count('"') % 2 == 1


def _csv_fault(lines: TableLines, line: int, error: csv.Error) -> str:
    place = f"{lines.path} {_place(line, len(lines.record_lines))}"
    if any("\r" in text.rstrip("\r\n") for text in lines.record_lines):
        return f"{place}: a line contains a CR; end lines with LF"
    return f"{place}: {error}; {QUOTES}"


def _place(first: int, count: int) -> str:
    return f"line {first}" if count < 2 else f"lines {first} to {first + count - 1}"
