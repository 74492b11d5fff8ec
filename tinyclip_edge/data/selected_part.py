"""Chosen pairs of a part of a source, read without copies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyclip_edge.data.pairs import Pair
from tinyclip_edge.data.source import Part, RowsPart
from tinyclip_edge.errors import DataError

AGAIN = "select again"
Rows = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class PartName:
    """Where a part comes from: the name of its file, folder or address, and its number there."""

    source: str
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class SelectedPart(RowsPart):
    """Chosen pairs of a part."""

    whole: Part
    name: PartName
    rows: Rows  # increasing
    of: int  # pairs of the whole part
    keys: str  # hash of the keys of its pairs
    index: str  # file of the selection, for messages

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the whole part, with a hash of the rows."""
        digest = hashlib.sha256(self.rows.astype("<u4").tobytes()).hexdigest()[:16]
        return f"{self.whole.fingerprint} {digest}"

    @property
    def size(self) -> int | None:
        """Bytes of the whole part, in proportion to the chosen pairs."""
        size = self.whole.size
        return None if size is None else -(-size * len(self.rows) // self.of)

    def __iter__(self) -> Iterator[Pair]:
        """Read the pairs; raise DataError if they are not the ones that were chosen."""
        digest = hashlib.blake2b(digest_size=16)
        rows = iter(self.rows.tolist())
        following = next(rows)
        for row, pair in enumerate(self.whole):
            if row != following:
                continue
            digest.update(key_mark(pair.key))
            following = next(rows, None)
            if following is None and digest.hexdigest() != self.keys:
                break
            yield pair
            if following is None:
                return
        raise self._changed()

    def _changed(self) -> DataError:
        return DataError(
            f"the pairs of {self.name.source} have changed since {self.index} was written; {AGAIN}"
        )


def key_mark(key: str) -> bytes:
    """Return 8 bytes of the hash of a key."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def keys_digest(marks: npt.NDArray[np.uint64]) -> str:
    """Return the hash of the keys of chosen pairs, given the marks of the keys in order."""
    return hashlib.blake2b(marks.astype("<u8").tobytes(), digest_size=16).hexdigest()
