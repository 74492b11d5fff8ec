"""Hash the captions of one shard; the task can be sent to any process."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyclip_edge.collection.shard_units import Unit, with_losses
from tinyclip_edge.collection.unit_steps import run_steps
from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.marks import MARK, sample_mark
from tinyclip_edge.data.pairs import Pair
from tinyclip_edge.data.selected_part import key_mark
from tinyclip_edge.selection.ngrams import HashedTexts, Hashing, Ints, hashed_texts
from tinyclip_edge.selection.unit_file import HashedUnit, write_unit

CHUNK = 4096  # captions hashed at a time


@dataclass(frozen=True, slots=True)
class CaptionTask:
    """The work on one unit; it can be sent to other processes."""

    folder: str
    hashing: Hashing
    with_samples: bool  # store the marks by which pictures' features are looked up

    def path(self, unit: Unit) -> Path:
        """Return the file of a unit."""
        settings = f"{self.hashing.buckets}-{self.hashing.longest}{'-s' * self.with_samples}"
        return Path(self.folder, f"{unit.mark}-{settings}.npz")

    def steps(self, unit: Unit) -> Generator[int, None, str]:
        """Hash a unit, yield how many pairs were read each time, return the name of its file.

        Raises DataError.
        """
        reading = _Reading(self)
        losses = Losses()
        for part in unit.parts:
            yield from reading.read(iter(with_losses(part, losses)))
        path = self.path(unit)
        write_unit(path, reading.result(losses))
        return path.name

    def run(self, unit: Unit) -> str:
        """Hash a unit at once."""
        return run_steps(self.steps(unit))


class _Reading:
    def __init__(self, task: CaptionTask) -> None:
        self._task = task
        self._texts: list[str] = []  # not hashed yet
        self._hashed: list[HashedTexts] = []
        self._keys: list[bytes] = []
        self._samples: list[bytes] = []
        self._captions: list[int] = []  # of each pair
        self._parts: list[int] = []  # pairs up to the end of each part

    def read(self, pairs: Iterator[Pair]) -> Generator[int, None, None]:
        """Read a part; yield how many pairs were read each time."""
        before = len(self._keys)
        for pair in pairs:
            self._keys.append(key_mark(pair.key))
            if self._task.with_samples:
                self._samples.append(sample_mark(pair))
            self._captions.append(len(pair.captions))
            self._texts += pair.captions
            if len(self._texts) >= CHUNK:
                self._hash()
                yield len(self._keys) - before
                before = len(self._keys)
        self._parts.append(len(self._keys))
        yield len(self._keys) - before

    def result(self, losses: Losses) -> HashedUnit:
        """Return what was read."""
        self._hash()
        sizes = np.cumsum([0, *(len(each.ids) for each in self._hashed)])
        return HashedUnit(
            np.concatenate([each.ids for each in self._hashed]),
            np.concatenate([
                each.ends + start for each, start in zip(self._hashed, sizes[:-1], strict=True)
            ]),
            np.cumsum(self._captions, dtype=np.int64),
            _ints(self._parts),
            np.frombuffer(b"".join(self._keys), "<u8"),
            np.frombuffer(b"".join(self._samples), np.uint8).reshape(-1, MARK),
            losses,
        )  # fmt: skip

    def _hash(self) -> None:
        self._hashed.append(hashed_texts(self._texts, self._task.hashing))
        self._texts = []


def _ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)
