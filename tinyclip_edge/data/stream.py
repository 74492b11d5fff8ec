"""Pairs that do not fit into memory, read again in every epoch, in an order set by the seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.features import CachedRows
from tinyclip_edge.data.memory import WHOLE, Batch
from tinyclip_edge.data.pairs import BadSamples, Halves, Pair
from tinyclip_edge.data.pixels import PixelCodec
from tinyclip_edge.data.source import PairSource
from tinyclip_edge.data.stream_groups import StreamGroup, StreamGroupPosition, deal
from tinyclip_edge.data.views import Crops
from tinyclip_edge.errors import ConfigError, DataError

AHEAD = 2  # batches decoded in advance
Counted = tuple[list[str], int, Losses]  # undecodable keys, pairs read, losses
# Pair, its caption or an unpaired text, view, decoded picture.
Decoding = list[tuple[Pair, str | None, int, Future[Tensor | None]]]


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """Positions of the stream groups of a process after a batch."""

    groups: dict[int, StreamGroupPosition]

    def plain(self) -> dict[int, dict[str, Any]]:
        """Return plain data by group number; those of several processes can be merged."""
        return {number: place.plain() for number, place in self.groups.items()}


@dataclass(slots=True)
class StreamingPairs:
    """Shuffled stream of a source: parts in random order, then a shuffle buffer.

    Each group has its own parts and buffer, and fills its own rows of every batch.
    """

    source: PairSource
    codec: PixelCodec
    workers: int = 2
    buffer: int = 2048  # encoded pairs in the shuffle buffer of each group
    stream_groups: int = 1
    crops: Crops | None = None  # views instead of the centre crop
    bad: BadSamples = field(init=False)
    samples: int = field(default=0, init=False)
    position: StreamPosition | None = field(default=None, init=False)  # after the last batch

    def __post_init__(self) -> None:
        self.bad = BadSamples(self.source.name, self.source.losses)

    @property
    def memories(self) -> tuple[()]:
        """None of these pairs is in memory."""
        return ()

    @property
    def streams(self) -> tuple[StreamingPairs, ...]:
        """These pairs, which are streamed."""
        return (self,)

    def check_batch(self, size: int, *, distinct: bool = True) -> None:
        """Raise ConfigError if a batch or the parts cannot be divided among the groups.

        Whether a batch of ``distinct`` concepts can be filled is known only while reading.
        """
        parts = len(self.source.parts)
        if self.stream_groups > parts:
            raise ConfigError(
                f"data.stream_groups {self.stream_groups} exceeds the {parts:,} parts (shards, or "
                f"256 pairs of a table or folder) of {self.source.name}; set it to at most {parts}"
            )
        check_stream_groups(size, self.stream_groups)

    def batches(
        self,
        start: int,
        size: int,
        *,
        seed: int,
        distinct: bool = True,
        rows: slice = WHOLE,
        position: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> Iterator[Batch]:
        """Yield ``rows`` of steps ``start`` …; only groups with some of these rows are read.

        ``position``, the StreamPosition.plain of step ``start``, avoids reading everything before
        it. Undecodable images make a batch smaller than ``size``.
        """
        self.check_batch(size)
        groups, own = self._groups(size, seed, rows)
        distinct = distinct and self.source.texts is None  # otherwise concepts are unknown
        if position is None:
            for _ in range(start):
                for group in groups.values():
                    group.draw(distinct=distinct)
        else:
            for number, group in groups.items():
                group.go_on(position.get(number, {}))
        waiting: deque[tuple[Decoding, StreamPosition]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for step, pairs in enumerate(_to_the_end(groups, distinct=distinct), start):
                if isinstance(pairs, DataError):
                    yield from (self._give(*waiting.popleft()) for _ in range(len(waiting)))
                    self.final_check()  # faulty samples may be the reason for too few pairs
                    raise pairs
                place = StreamPosition({number: group.place() for number, group in groups.items()})
                views = (
                    [0] * size if self.crops is None else self.crops.draw_views(seed, step, size)
                )
                captioned = self._captioned(pairs[own], seed, step, size, rows)
                waiting.append((self._begin(pool, captioned, views[rows]), place))
                if len(waiting) > AHEAD:
                    yield self._give(*waiting.popleft())

    def _captioned(
        self, pairs: Sequence[tuple[Pair, str]], seed: int, step: int, size: int, rows: slice
    ) -> Sequence[tuple[Pair, str | None]]:
        """Replace the captions by the source's unpaired texts, if any; None if those are empty."""
        texts = self.source.texts
        if texts is None:
            return pairs
        drawn = [texts.lines[number] for number in texts.draw(seed, step, size)[rows]]
        return list(zip_longest((pair for pair, _ in pairs), drawn))

    def skipped(self) -> list[str]:
        """Return lines about truncated shards, faulty samples and undecodable images so far."""
        return self.bad.report(self.samples)

    @property
    def counted(self) -> Counted:
        """Return the keys of undecodable images, the number of pairs read, and the losses."""
        return self.bad.keys, self.samples, self.bad.losses

    def add_up(self, shares: Iterable[Counted]) -> None:
        """Replace the counts of this process by the sums of all processes."""
        keys, counts, losses = zip(*shares, strict=True)
        self.bad.keys, self.samples = [key for part in keys for key in part], sum(counts)
        for more in losses:
            self.bad.losses.merge(more)

    def final_check(self) -> None:
        """Raise DataError if too many images could not be decoded, however few were read."""
        self.bad.check(self.samples, final=True)

    def _groups(self, size: int, seed: int, rows: slice) -> tuple[dict[int, StreamGroup], slice]:
        """Return the groups that fill ``rows``, by number, and their slices of ``rows``."""
        share = size // self.stream_groups
        first, end, _ = rows.indices(size)
        numbers = range(first // share, -(-end // share))
        dealt = deal(len(self.source.parts), self.stream_groups, seed)
        groups = {
            number: StreamGroup(
                self.source,
                dealt[number],
                share,
                seed=seed,
                number=number,
                groups=self.stream_groups,
                buffer=self.buffer,
            )
            for number in numbers
        }
        before = numbers[0] * share
        return groups, slice(first - before, end - before)

    def _begin(
        self,
        pool: ThreadPoolExecutor,
        pairs: Sequence[tuple[Pair, str | None]],
        views: Sequence[int],
    ) -> Decoding:
        decoding: Decoding = []
        for (pair, caption), view in zip(pairs, views, strict=True):
            if self.crops is None:
                image = pool.submit(self.codec.decode, pair.image)
            else:
                image = pool.submit(self.crops.decode_one, pair.image, self.crops.seed(pair, view))
            decoding.append((pair, caption, view, image))
        return decoding

    def _give(self, items: Decoding, position: StreamPosition) -> Batch:
        batch = self._finish(items)
        self.position = position
        return batch

    def _finish(self, items: Decoding) -> Batch:
        done = [(pair, caption, view, future.result()) for pair, caption, view, future in items]
        for pair, _, _, image in done:
            if image is None:
                self.bad.add(pair.key)
        self.samples += len(done)
        self.bad.check(self.samples, final=False)
        good = [(p, caption, view, image) for p, caption, view, image in done if image is not None]
        if not good:
            raise DataError(f"{self.source.name}: no image of an entire batch can be decoded")
        return Batch(
            keys=tuple(pair.key for pair, *_ in good),
            pixels=torch.stack([image for *_, image in good]),
            captions=tuple(caption for _, caption, *_ in good if caption is not None),
            image_features=CachedRows.of([pair.cached_view(view) for pair, _, view, _ in good]),
            text_features=CachedRows.of([self._cached_text(pair, text) for pair, text, *_ in good]),
        )

    def _cached_text(self, pair: Pair, caption: str | None) -> Halves | None:
        if caption is None:
            return None
        texts = self.source.texts
        return pair.cached_text(caption) if texts is None else texts.cached.get(caption)


def _to_the_end(
    groups: Mapping[int, StreamGroup], *, distinct: bool
) -> Iterator[list[tuple[Pair, str]] | DataError]:
    """Yield the pairs that all groups draw for each batch, then the DataError that ends them."""
    while True:
        try:
            pairs = [pair for group in groups.values() for pair in group.draw(distinct=distinct)]
        except DataError as error:
            yield error
            return
        yield pairs


def check_stream_groups(size: int, groups: int) -> None:
    """Raise ConfigError if a batch cannot be divided evenly among the stream groups."""
    if size % groups:
        raise ConfigError(
            f"optim.batch_size {size} cannot be divided evenly by data.stream_groups "
            f"{groups}; change one of them"
        )
