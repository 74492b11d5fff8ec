"""Pairs that do not fit into memory, read again in every epoch in an order fixed by the seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from torch import Tensor

from tinyclip_edge.data.memory import WHOLE, Batch
from tinyclip_edge.data.pairs import BadSamples, Pair
from tinyclip_edge.data.pixels import PixelCodec
from tinyclip_edge.data.source import PairSource
from tinyclip_edge.errors import DataError

AHEAD = 2  # batches that are being decoded while one is used


@dataclass(slots=True)
class StreamingPairs:
    """Shuffled stream of a source: parts in random order, then a buffer to draw from."""

    source: PairSource
    codec: PixelCodec
    workers: int = 2
    buffer: int = 2048  # encoded pairs to draw from
    bad: BadSamples = field(init=False)
    seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.bad = BadSamples(self.source.name)

    def batches(
        self, start: int, size: int, *, seed: int, distinct: bool = True, rows: slice = WHOLE
    ) -> Iterator[Batch]:
        """Yield ``rows`` of steps ``start`` …; all others are read past, not decoded.

        A batch is smaller than ``size`` by the images that cannot be decoded.
        """
        groups = self._groups(size, seed, distinct)
        for _ in range(start):
            next(groups)
        waiting: deque[list[tuple[Pair, str, Future[Tensor | None]]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for group in groups:
                waiting.append(
                    [(p, c, pool.submit(self.codec.decode, p.image)) for p, c in group[rows]]
                )
                if len(waiting) > AHEAD:
                    yield self._finish(waiting.popleft())

    def skipped(self) -> str | None:
        """Return a line about images that did not decode so far, or None."""
        return self.bad.report(self.seen)

    @property
    def counted(self) -> tuple[list[str], int]:
        """Return the keys that did not decode, and how many pairs were seen."""
        return self.bad.keys, self.seen

    def add_up(self, shares: Iterable[tuple[list[str], int]]) -> None:
        """Count what all processes counted, each in its own rows, in place of our part."""
        keys, seen = zip(*shares, strict=True)
        self.bad.keys, self.seen = [key for part in keys for key in part], sum(seen)

    def final_check(self) -> None:
        """Raise DataError when too many did not decode, however few were seen."""
        self.bad.check(self.seen, final=True)

    def _finish(self, items: list[tuple[Pair, str, Future[Tensor | None]]]) -> Batch:
        done = [(pair, caption, future.result()) for pair, caption, future in items]
        for pair, _, image in done:
            if image is None:
                self.bad.add(pair.key)
        self.seen += len(done)
        self.bad.check(self.seen, final=False)
        good = [(pair, caption, image) for pair, caption, image in done if image is not None]
        if not good:
            raise DataError(f"{self.source.name}: no image of a whole batch can be decoded")
        return Batch(
            keys=tuple(pair.key for pair, _, _ in good),
            pixels=torch.stack([image for _, _, image in good]),
            captions=tuple(caption for _, caption, _ in good),
        )

    def _groups(self, size: int, seed: int, distinct: bool) -> Iterator[list[tuple[Pair, str]]]:
        """Fill batches in order; a pair whose concept is already there waits for the next one."""
        pairs = self._shuffled(seed)
        random = np.random.default_rng([seed, 2])
        delayed: deque[Pair] = deque()
        while True:
            group: list[Pair] = []
            concepts: set[str] = set()
            again: deque[Pair] = deque()
            while len(group) < size:
                pair = delayed.popleft() if delayed else next(pairs)
                if distinct and pair.concept in concepts:
                    again.append(pair)
                    if len(again) > self.buffer:
                        raise DataError(
                            f"{self.source.name}: {len(again)} pairs repeat the concepts of "
                            f"one batch; lower optim.batch_size or set data.batch_distinct=false"
                        )
                    continue
                concepts.add(pair.concept)
                group.append(pair)
            delayed.extendleft(reversed(again))
            draws = random.random(size)
            yield [
                (pair, pair.captions[int(draw * len(pair.captions))])
                for pair, draw in zip(group, draws, strict=True)
            ]

    def _shuffled(self, seed: int) -> Iterator[Pair]:
        for epoch in count():
            random = np.random.default_rng([seed, 0, epoch])
            held: list[Pair] = []
            for part in random.permutation(len(self.source.parts)):
                for pair in self.source.parts[int(part)]:
                    if len(held) < self.buffer:
                        held.append(pair)
                        continue
                    at = int(random.integers(len(held)))
                    yield held[at]
                    held[at] = pair
            for at in random.permutation(len(held)):
                yield held[int(at)]
