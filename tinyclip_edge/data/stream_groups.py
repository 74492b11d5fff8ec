"""The order of a stream: its parts are divided among groups, and each group shuffles its pairs.

The order of a group depends on the seed, the number of groups and its own number, never on the
process that reads it. Its position can be saved, and resumed by reading only the buffered pairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tinyclip_edge.data.pairs import Pair
from tinyclip_edge.data.source import PairSource
from tinyclip_edge.errors import DataError

MOST = 1 << 53  # upper bound of every count


@dataclass(frozen=True, slots=True)
class Placed:
    """A pair and its location: number of the part in the source, row in the part."""

    part: int
    row: int
    pair: Pair


@dataclass(frozen=True, slots=True)
class StreamGroupPosition:
    """Position of a group after a batch."""

    epoch: int
    at: int  # parts of the epoch that were read to the end
    row: int  # pairs read from the next part
    read: int  # pairs read in the epoch
    buffered: tuple[Placed, ...]  # in the shuffle buffer
    leaving: tuple[Placed, ...]  # of the previous epoch, in their order
    delayed: tuple[Placed, ...]
    order: Mapping[str, Any]  # state of the generator of the epoch
    captions: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return numbers, lists and strings; pairs as ``[part, row]``."""
        pairs = {"held": self.buffered, "leaving": self.leaving, "delayed": self.delayed}
        return {
            "epoch": self.epoch,
            "at": self.at,
            "taken": self.row,
            "read": self.read,
            **{key: [[p.part, p.row] for p in placed] for key, placed in pairs.items()},
            "order": dict(self.order),
            "captions": dict(self.captions),
        }


def deal(parts: int, groups: int, seed: int) -> list[list[int]]:
    """Divide the parts among groups, in ascending order; each part is in one group."""
    dealt = np.random.default_rng([seed, 5]).permutation(parts)
    return [sorted(dealt[group::groups].tolist()) for group in range(groups)]


class StreamGroup:
    """Endless shuffled pairs of some parts: parts in random order, then a shuffle buffer.

    ``share`` is its number of pairs in each batch.
    """

    def __init__(
        self,
        source: PairSource,
        parts: Sequence[int],
        share: int,
        *,
        seed: int,
        number: int,
        groups: int,
        buffer: int,
    ) -> None:
        self._source = source
        self._parts = np.array(parts)
        self._share = share
        self._seed = seed
        self._number = number
        self._groups = groups
        self._buffer = buffer
        # numpy pads a seed with zeros, so a single group with number 0 is not a special case.
        self._captions = np.random.default_rng([seed, 2, number])
        self._buffered: list[Placed] = []
        self._leaving: deque[Placed] = deque()
        self._delayed: deque[Placed] = deque()
        self._begin(0)

    def draw(self, *, distinct: bool) -> list[tuple[Pair, str]]:
        """Return the pairs of the next batch with a caption each, "" for one without captions.

        A pair whose concept is already in the batch is postponed to the next one. Raises DataError
        if the group cannot fill its share.
        """
        pairs: list[Pair] = []
        concepts: set[str] = set()
        again: deque[Placed] = deque()
        while len(pairs) < self._share:
            placed = self._delayed.popleft() if self._delayed else self._next()
            if distinct and placed.pair.concept in concepts:
                again.append(placed)
                if len(again) > self._buffer:
                    raise DataError(
                        f"{self._source.name}: {len(again):,} pairs repeat the concepts of "
                        f"one batch; lower optim.batch_size or set data.batch_distinct=false"
                    )
                continue
            concepts.add(placed.pair.concept)
            pairs.append(placed.pair)
        self._delayed.extendleft(reversed(again))
        draws = self._captions.random(self._share)
        return [
            (pair, pair.captions[int(draw * len(pair.captions))] if pair.captions else "")
            for pair, draw in zip(pairs, draws, strict=True)
        ]

    def place(self) -> StreamGroupPosition:
        """Return the position of the group."""
        return StreamGroupPosition(
            self._epoch,
            self._at,
            self._row,
            self._read,
            tuple(self._buffered),
            tuple(self._leaving),
            tuple(self._delayed),
            self._random.bit_generator.state,
            self._captions.bit_generator.state,
        )

    def go_on(self, place: Mapping[str, Any]) -> None:
        """Continue at ``place``, a StreamGroupPosition.plain.

        Reads only the parts of the pairs in its buffers. Raises DataError if pairs are missing.
        """
        try:
            self._go_to(place)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(
                f"{self._source.name}: the checkpoint's position in it cannot be read ({error})"
            ) from error

    def _go_to(self, place: Mapping[str, Any]) -> None:
        counts = [place[name] for name in ("epoch", "at", "taken", "read")]
        if not all(type(count) is int and 0 <= count <= MOST for count in counts):
            raise ValueError("a number out of range")
        self._begin(place["epoch"])
        self._at, self._row, self._read = place["at"], place["taken"], place["read"]
        self._random.bit_generator.state = place["order"]
        self._captions.bit_generator.state = place["captions"]
        placed = self._fetch([*place["held"], *place["leaving"], *place["delayed"]])
        self._buffered = [placed[part, row] for part, row in place["held"]]
        self._leaving = deque(placed[part, row] for part, row in place["leaving"])
        self._delayed = deque(placed[part, row] for part, row in place["delayed"])

    def _begin(self, epoch: int) -> None:
        self._epoch, self._at, self._row, self._read = epoch, 0, 0, 0
        self._random = np.random.default_rng([self._seed, 0, epoch, self._number])
        self._order = self._parts[self._random.permutation(len(self._parts))].tolist()
        self._rows: Iterator[Pair] | None = None

    def _next(self) -> Placed:
        while not self._leaving:
            placed = self._read_one()
            if placed is None:
                self._end_epoch()
            elif len(self._buffered) < self._buffer:
                self._buffered.append(placed)
            else:
                at = int(self._random.integers(len(self._buffered)))
                leaving, self._buffered[at] = self._buffered[at], placed
                return leaving
        return self._leaving.popleft()

    def _read_one(self) -> Placed | None:
        """Return the next pair of the epoch; None at its end."""
        while self._at < len(self._order):
            part = self._order[self._at]
            if self._rows is None:
                self._rows = islice(self._source.parts[part], self._row, None)
            pair = next(self._rows, None)
            if pair is not None:
                self._row += 1
                self._read += 1
                return Placed(part, self._row - 1, pair)
            self._at, self._row, self._rows = self._at + 1, 0, None
        return None

    def _end_epoch(self) -> None:
        if self._read < self._share:
            raise self._too_few()
        order = self._random.permutation(len(self._buffered))
        self._leaving = deque(self._buffered[int(at)] for at in order)
        self._buffered = []
        self._begin(self._epoch + 1)

    def _too_few(self) -> DataError:
        name, size = self._source.name, self._share * self._groups
        if self._groups == 1:
            return DataError(
                f"optim.batch_size {size} exceeds the {self._read:,} pairs of {name}; lower it"
            )
        return DataError(
            f"{name}: stream group {self._number + 1} of {self._groups} has {self._read:,} "
            f"pairs to fill {self._share} of optim.batch_size {size}; lower optim.batch_size or "
            f"data.stream_groups"
        )

    def _fetch(self, places: Sequence[Sequence[int]]) -> dict[tuple[int, int], Placed]:
        rows_by_part: dict[int, set[int]] = {}
        for part, row in places:
            rows_by_part.setdefault(part, set()).add(row)
        placed = {
            (part, row): Placed(part, row, pair)
            for part, rows in rows_by_part.items()
            for row, pair in enumerate(islice(self._source.parts[part], max(rows) + 1))
            if row in rows
        }
        for part, rows in rows_by_part.items():
            if missing := sorted(row for row in rows if (part, row) not in placed):
                raise DataError(
                    f"{self._source.name}: part {self._source.parts[part].fingerprint} no longer "
                    f"has a sample {missing[0] + 1}; it changed after the checkpoint"
                )
        return placed
