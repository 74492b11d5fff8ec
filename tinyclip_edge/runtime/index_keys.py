"""The keys of an index in its file: a JSON list, and where each key ends in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, shown

_KEYS = 1 << 14  # that are read at a time
_SEPARATOR = b", "


def check_utf8(keys: Iterable[str]) -> None:
    """Raise DataError for a key that is not UTF-8; file names may be in other encodings."""
    for key in keys:
        try:
            key.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"key {shown(key)} is not UTF-8; rename the file, or leave it out"
            ) from None


class MappedKeys(Sequence[str]):
    """Keys that stay in a mapped file and are read when used; DataError if they are broken then."""

    def __init__(self, content: npt.NDArray[Any], ends: npt.NDArray[Any]) -> None:
        """Raise ValueError for arrays of other types than ``key_bytes`` returns."""
        if content.dtype != np.uint8 or ends.dtype != np.int64 or content.ndim != ends.ndim != 1:
            raise ValueError("its keys are of another kind")
        self._content, self._ends = content, ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, rows: int) -> str: ...
    @overload
    def __getitem__(self, rows: slice) -> tuple[str, ...]: ...
    def __getitem__(self, rows: int | slice) -> str | tuple[str, ...]:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return tuple(self._texts(start, stop))
            return tuple(self[row] for row in range(start, stop, step))
        row = range(len(self))[rows]
        return next(self._texts(row, row + 1))

    def __iter__(self) -> Iterator[str]:
        return self._texts(0, len(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (tuple, MappedKeys)):
            return NotImplemented
        return len(self) == len(other) and all(map(str.__eq__, self, other))

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:  # noqa: ANN401 - as in Sequence
        """Return the first row of a key; raise ValueError if there is none."""
        first, last, _ = slice(start, stop).indices(len(self))
        for row, key in enumerate(self._texts(first, last), first):
            if key == value:
                return row
        raise ValueError(f"{value!r} is not a key")

    __hash__ = None  # type: ignore[assignment]

    def _texts(self, start: int, stop: int) -> Iterator[str]:
        for first in range(start, stop, _KEYS):
            count = min(_KEYS, stop - first)
            begin = int(self._ends[first - 1]) + len(_SEPARATOR) if first else 1
            end = int(self._ends[first + count - 1])
            try:
                texts = json.loads(b"[" + self._content[begin:end].tobytes() + b"]")
            except (ValueError, RecursionError) as error:
                raise DataError(f"index: its keys are broken: {error}") from error
            if len(texts) != count or set(map(type, texts)) != {str}:
                raise DataError("index: its keys are broken: they are not strings")
            yield from texts


def key_bytes(keys: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return keys as a JSON list, and the position in it after each key."""
    content = bytearray(b"[")
    ends = np.empty(len(keys), np.int64)
    for row, key in enumerate(keys):
        if row:
            content += _SEPARATOR
        content += json.dumps(key).encode()
        ends[row] = len(content)
    content += b"]"
    return np.frombuffer(content, np.uint8), ends
