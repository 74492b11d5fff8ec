"""A journal of changes not yet in an index file, which survives a kill at any moment.

Records are appended and each has a checksum, so that a last record that was cut off is recognised
and dropped. Applying them twice gives the same result.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.runtime.decode_modes import EXACT
from tinyclip_edge.runtime.vectors import Codes

VERSION = 1
DIGEST_BYTES = 16
_KEYS = 10_000  # most keys that one record removes
_FRAME = struct.Struct("<II")  # bytes of the record, their CRC-32
_COUNT = struct.Struct("<I")  # bytes of the JSON at its beginning


class IndexedFile(NamedTuple):
    """A picture's file when it was embedded, and its embedding."""

    size: int
    mtime_ns: int
    digest: bytes
    code: Codes  # [D]
    scale: float


class Journal:
    """The changes, and the open file behind them; use it as a context manager."""

    def __init__(self, path: Path, model_hash: str, width: int, decode: str = EXACT) -> None:
        """Read the file at ``path``, or begin one.

        Raise BundleError for changes of another model or decode mode, DataError for a link or if
        writing fails.
        """
        self.path = path
        self.files: dict[str, IndexedFile] = {}
        self.removed: set[str] = set()
        self._width = width
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise DataError(f"{path} is not a plain file, so it is not written to; delete it")
        header = {"version": VERSION, "model": model_hash, "width": width}
        if decode != EXACT:  # earlier versions do not record EXACT
            header["decode"] = decode
        try:
            self._file: IO[bytes] = path.open("r+b" if path.exists() else "w+b")
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}") from error
        try:
            if self._replay(header) == 0:
                self._append(header, b"")
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if not self.files and not self.removed:
            self.path.unlink(missing_ok=True)

    def write(self, files: Mapping[str, IndexedFile], removed: Iterable[str]) -> None:
        """Add changes, the removals first; raise DataError if writing fails."""
        gone = sorted(removed)
        for start in range(0, len(gone) - _KEYS, _KEYS):  # the size of a record's JSON is limited
            self._write({}, gone[start : start + _KEYS])
        if gone or files:
            self._write(files, gone[(len(gone) - 1) // _KEYS * _KEYS :] if gone else [])

    def _write(self, files: Mapping[str, IndexedFile], removed: Sequence[str]) -> None:
        record = {
            "remove": removed,
            "files": [
                [key, entry.size, entry.mtime_ns, entry.digest.hex()]
                for key, entry in files.items()
            ],
        }
        codes = b"".join(entry.code.tobytes() for entry in files.values())
        scales = np.array([entry.scale for entry in files.values()], "<f4").tobytes()
        self._append(record, codes + scales)
        self._apply(record, codes + scales)

    def delete(self) -> None:
        """Remove the file: its changes are in the index."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        with suppress(OSError):  # a full disk, already reported by write
            self._file.close()

    def _replay(self, header: Mapping[str, Any]) -> int:
        """Apply the records; return the position of their end, where writing continues."""
        end = 0
        try:
            for number, (record, numbers, position) in enumerate(_records(self._file)):
                if number == 0:
                    self._check(record, header)
                else:
                    self._apply(record, numbers)
                end = position
            self._file.truncate(end)
            return self._file.seek(end)
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from error
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise DataError(f"{self.path} is broken: {error}; delete it") from error

    def _append(self, record: Mapping[str, Any], numbers: bytes) -> None:
        text = json.dumps(record).encode()
        content = _COUNT.pack(len(text)) + text + numbers
        try:
            self._file.write(_FRAME.pack(len(content), zlib.crc32(content)) + content)
            self._file.flush()
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _check(self, record: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        if {**record, "decode": None} == {**header, "decode": None} and record != header:
            before = record.get("decode", EXACT)
            raise BundleError(
                f"{self.path} holds unfinished work with --decode {before}; finish it with the "
                "same --decode, or delete the file"
            )
        if record != header:
            raise BundleError(
                f"{self.path} holds unfinished work of model {record.get('model')}, but this is "
                f"{header['model']}; finish it with that model, or delete the file"
            )

    def _apply(self, record: Mapping[str, Any], numbers: bytes) -> None:
        rows, width = record["files"], self._width
        if len(numbers) != len(rows) * (width + 4):
            raise ValueError("a record has the wrong length")
        codes = np.frombuffer(numbers, np.int8, len(rows) * width).reshape(len(rows), width)
        scales = np.frombuffer(numbers, "<f4", len(rows), codes.nbytes)
        if not np.isfinite(scales).all():
            raise ValueError("a scale is not finite")
        for key in record["remove"]:
            self.files.pop(str(key), None)
            self.removed.add(str(key))
        for (key, size, mtime_ns, digest), code, scale in zip(rows, codes, scales, strict=True):
            entry = IndexedFile(int(size), int(mtime_ns), bytes.fromhex(digest), code, float(scale))
            if len(entry.digest) != DIGEST_BYTES or max(entry.size, abs(entry.mtime_ns)) >= 1 << 63:
                raise ValueError("a file's digest, size or time is invalid")
            self.files[str(key)] = entry
            self.removed.discard(str(key))


def journal_path(index: Path) -> Path:
    """Return the path of an index's journal, hidden beside it."""
    return index.with_name(f".{index.name}.journal")


def _records(file: IO[bytes]) -> Iterator[tuple[Mapping[str, Any], bytes, int]]:
    """Yield the JSON, the bytes after it and the end of each record, up to one that is cut off."""
    remaining = file.seek(0, os.SEEK_END)
    file.seek(0)
    while remaining >= _FRAME.size:
        length, checksum = _FRAME.unpack(file.read(_FRAME.size))
        remaining -= _FRAME.size + length
        if remaining < 0:
            return
        content = file.read(length)
        if zlib.crc32(content) != checksum or length < _COUNT.size:
            return
        (count,) = _COUNT.unpack_from(content)
        record = parse_json(content[_COUNT.size : _COUNT.size + count])
        if not isinstance(record, dict):
            raise ValueError("a record is not a table")  # noqa: TRY004 - of the file, not the code
        yield record, content[_COUNT.size + count :], file.tell()
