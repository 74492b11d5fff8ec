"""The pairs with the largest sums of log weight and noise; the sums are stored on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.selection.hashed_set import HashedSet
from tinyclip_edge.selection.near_duplicates import first_of_each
from tinyclip_edge.selection.top_k import threshold_of
from tinyclip_edge.selection.weighing import Weighing, unit_embeddings
from tinyclip_edge.selection.weights import Doubles, gumbel

if TYPE_CHECKING:
    from tinyclip_edge.selection.space import TeacherSpace

Mask = npt.NDArray[np.bool_]

BLOCK = 1 << 20  # numbers in memory
SPARE = 1024  # extra pairs drawn to replace near-duplicates


@dataclass(slots=True)
class Drawing:
    """Log weights and noise of all pairs of a set, in files of a work folder."""

    folder: Path
    sizes: Sequence[int]  # pairs of each unit
    usable: int  # pairs that can be chosen
    mean: float  # mean log weight of those

    @classmethod
    def of(cls, folder: Path, pairs: HashedSet, weighing: Weighing, seed: int) -> Drawing:
        """Weigh all pairs. Raises DataError when the disk refuses."""
        usable, total = 0, 0.0
        try:
            with (folder / "weights").open("wb") as weights, (folder / "sums").open("wb") as sums:
                for unit, hashed in zip(pairs.units, pairs, strict=True):
                    values = weighing.of(unit, hashed)
                    values.tofile(weights)
                    (values + gumbel(seed, unit.mark, len(values))).tofile(sums)
                    finite = values[np.isfinite(values)]
                    usable, total = usable + len(finite), total + float(finite.sum())
        except OSError as error:
            raise DataError(f"cannot write {folder}: {error.strerror or error}") from error
        return cls(folder, pairs.sizes, usable, total / max(1, usable))

    def masks(self, count: int) -> Iterator[Mask]:
        """Yield for each unit which of its pairs have the ``count`` largest sums."""
        threshold, before = threshold_of(self._blocks, count), 0
        for sums in self._units("sums"):
            mask, before = threshold.chosen(sums, before)
            yield mask

    def weights(self) -> Iterator[Doubles]:
        """Yield the log weights of each unit."""
        return self._units("weights")

    def _units(self, name: str) -> Iterator[Doubles]:
        with (self.folder / name).open("rb") as file:
            for size in self.sizes:
                yield np.fromfile(file, np.float64, size)

    def _blocks(self) -> Iterator[Doubles]:
        with (self.folder / "sums").open("rb") as file:
            while len(block := np.fromfile(file, np.float64, BLOCK)):
                yield block

    def distinct(
        self, count: int, cosine: float, pairs: HashedSet, space: TeacherSpace
    ) -> tuple[list[Mask], int]:
        """Return which pairs of each unit are drawn, ``count`` in all, and how many were skipped.

        A pair is skipped if one with a larger sum has a picture with at least this cosine to its.
        Memory grows with the pairs drawn. Raises DataError if there are too few.
        """
        among = min(self.usable, count + count // 4 + SPARE)
        while True:
            rows, order, embeddings = self._best(among, pairs, space)
            chosen = first_of_each(embeddings, order, count, cosine)
            if len(chosen) == count or among == self.usable:
                break
            among = min(self.usable, 2 * among)
        if len(chosen) < count:
            raise DataError(
                f"only {len(chosen):,} of {self.usable:,} pairs are not near-duplicates; lower "
                "--count or raise --drop-duplicates"
            )
        last = int(np.flatnonzero(order == chosen[-1])[0])
        mask = np.zeros(sum(self.sizes), bool)
        mask[rows[chosen]] = True
        return np.split(mask, np.cumsum(self.sizes)[:-1]), last + 1 - count

    def _best(
        self, count: int, pairs: HashedSet, space: TeacherSpace
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float16]]:
        """Return the rows of the largest sums, their order, and their embeddings on disk."""
        embeddings = np.memmap(
            self.folder / "embeddings", np.float16, "w+", shape=(count, space.width)
        )
        rows, sums = np.empty(count, np.int64), np.empty(count)
        at = first = 0
        for unit, hashed, mask, values in zip(
            pairs.units, pairs, self.masks(count), self._units("sums"), strict=True
        ):
            if size := int(mask.sum()):
                own = np.concatenate(list(unit_embeddings(space, unit, hashed)))
                embeddings[at : at + size] = own[mask]
                rows[at : at + size] = first + np.flatnonzero(mask)
                sums[at : at + size] = values[mask]
            at, first = at + size, first + len(mask)
        return rows, np.argsort(-sums, kind="stable"), embeddings
