"""Several sources, each with a share of every batch.

B rows of a batch, K sources; a source's rows are spread evenly over the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from tinyclip_edge.data.features import CachedRows
from tinyclip_edge.data.memory import WHOLE, Batch, PairMemory
from tinyclip_edge.data.stream import StreamingPairs, StreamPosition, check_stream_groups
from tinyclip_edge.errors import ConfigError, DataError

Ints = npt.NDArray[np.int64]
MEMBERS = 11  # stream index of the generators of the sources' seeds


class MixedPairs:
    """K sources, all in memory or all streamed; a batch is a function of (seed, step).

    Each has its own seed. Streams number their groups one source after the other.
    """

    def __init__(
        self, members: Sequence[PairMemory] | Sequence[StreamingPairs], weights: Sequence[float]
    ) -> None:
        self.members: tuple[PairMemory | StreamingPairs, ...] = tuple(members)
        self.weights = tuple(weights)
        self.position: StreamPosition | None = None  # after the last batch

    @property
    def name(self) -> str:
        """Names of all sources."""
        return " + ".join(
            each.name if isinstance(each, PairMemory) else each.source.name for each in self.members
        )

    @property
    def memories(self) -> tuple[PairMemory, ...]:
        """The sources in memory."""
        return tuple(each for each in self.members if isinstance(each, PairMemory))

    @property
    def streams(self) -> tuple[StreamingPairs, ...]:
        """The streamed sources."""
        return tuple(each for each in self.members if isinstance(each, StreamingPairs))

    @property
    def captions(self) -> tuple[str, ...]:
        """Captions and texts of the sources in memory, one source after the other."""
        return tuple(text for each in self.memories for text in each.captions)

    def __len__(self) -> int:
        return sum(map(len, self.memories))

    def shares(self, size: int) -> list[int]:
        """Return the number of rows of each source in a batch, in proportion to the weights.

        Raises ConfigError for a source without rows.
        """
        unit = self._groups
        ideal = [size // unit * weight / sum(self.weights) for weight in self.weights]
        rows = [int(each) for each in ideal]
        largest = sorted(range(len(rows)), key=lambda at: rows[at] - ideal[at])
        for at in largest[: size // unit - sum(rows)]:
            rows[at] += 1
        if 0 in rows:
            raise ConfigError(
                f"data.mix[{rows.index(0) + 1}] gets no row in a batch of {size:,}; raise its "
                "weight or optim.batch_size"
            )
        return [unit * each for each in rows]

    def largest_batch(self, *, distinct: bool) -> int:
        """Return the largest size of a batch without repetition, for sources in memory."""
        total = sum(self.weights)
        return min(
            int(each.largest_batch(distinct=distinct) * total / weight)
            for each, weight in zip(self.memories, self.weights, strict=True)
        )

    def check_batch(self, size: int, *, distinct: bool) -> None:
        """Raise a ConfigError or DataError that names the source if a batch cannot be filled."""
        check_stream_groups(size, self._groups)
        for number, (each, share) in enumerate(
            zip(self.members, self.shares(size), strict=True), 1
        ):
            try:
                each.check_batch(share, distinct=distinct)
            except (ConfigError, DataError) as error:
                raise type(error)(f"data.mix[{number}] (its share of a batch): {error}") from None

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
        """Yield ``rows`` of the batches of steps ``start`` …; arguments as for the sources.

        Raises ConfigError if a source has none of these rows.
        """
        shares, owners = self.shares(size), self._owners(size)
        own = owners[rows]
        first, *_ = rows.indices(size)
        with ExitStack() as stack:
            streams = []
            for number, (each, share) in enumerate(zip(self.members, shares, strict=True)):
                before = int((owners[:first] == number).sum())
                count = int((own == number).sum())
                if not count:
                    raise ConfigError(
                        f"data.mix[{number + 1}] has {share} of {size:,} rows of a batch, fewer "
                        "than there are processes; raise its weight or optim.batch_size"
                    )
                batches = each.batches(
                    start,
                    share,
                    seed=self._seed(seed, number),
                    distinct=distinct,
                    rows=slice(before, before + count),
                    position=self._part(position, number),
                )
                streams.append(stack.enter_context(closing(batches)))  # type: ignore[type-var]
            while True:
                batch = self._joined([next(each) for each in streams], owners, own)
                self.position = self._place()
                yield batch

    @property
    def _groups(self) -> int:
        return self.streams[0].stream_groups if self.streams else 1

    def _seed(self, seed: int, number: int) -> int:
        """Return the seed of a source: the run's for the first one."""
        if not number:
            return seed
        return int(np.random.default_rng([seed, MEMBERS, number]).integers(1 << 31))

    def _owners(self, size: int) -> Ints:
        """Return the source of each row ``[B]``, evenly spread within each stream group's rows."""
        shares = [share // self._groups for share in self.shares(size)]
        owners = np.repeat(np.arange(len(shares)), shares)
        places = np.concatenate([(np.arange(share) + 0.5) / share for share in shares])
        return np.tile(owners[np.argsort(places, kind="stable")], self._groups)

    def _part(
        self, position: Mapping[int, Mapping[str, Any]] | None, number: int
    ) -> Mapping[int, Mapping[str, Any]] | None:
        """Return one source's part of the position of all sources."""
        if position is None:
            return None
        first = number * self._groups
        return {
            group - first: place
            for group, place in position.items()
            if first <= group < first + self._groups
        }

    def _place(self) -> StreamPosition | None:
        places = {
            number * self._groups + group: place
            for number, each in enumerate(self.streams)
            if each.position is not None
            for group, place in each.position.groups.items()
        }
        return StreamPosition(places) if places else None

    def _joined(self, batches: Sequence[Batch], owners: Ints, own: Ints) -> Batch:
        """Return one batch with the rows of all sources; a stream omits undecodable images."""
        left = [iter(range(len(batch.keys))) for batch in batches]
        taken = [(number, next(left[number], None)) for number in own.tolist()]
        rows = [(batches[number], row) for number, row in taken if row is not None]
        return Batch(
            keys=tuple(batch.keys[row] for batch, row in rows),
            pixels=torch.stack([batch.pixels[row] for batch, row in rows]),
            captions=tuple(batch.captions[row] for batch, row in rows),
            image_ids=self._ids(owners, [b.image_ids for b in batches], self._pictures),
            caption_ids=self._ids(
                owners,
                [b.caption_ids for b in batches],
                [len(each.captions) for each in self.memories],
            ),
            image_features=_cached([(b.image_features, row) for b, row in rows]),
            text_features=_cached([(b.text_features, row) for b, row in rows]),
        )

    @property
    def _pictures(self) -> list[int]:
        """Rows of each source in a table of image features: its pictures, or their views."""
        return [
            len(each) * (1 if each.viewed is None else each.viewed.crops.count)
            for each in self.memories
        ]

    def _ids(
        self, owners: Ints, parts: Sequence[Ints | None], lengths: Sequence[int]
    ) -> Ints | None:
        """Return the numbers ``[B]`` of all sources' rows in one table; None for streams."""
        if not lengths:
            return None
        ids = np.empty(len(owners), dtype=np.int64)
        for number, (part, first) in enumerate(
            zip(parts, accumulate(lengths, initial=0), strict=False)
        ):
            assert part is not None  # of a source in memory
            ids[owners == number] = part + first
        return ids


def _cached(rows: Sequence[tuple[CachedRows | None, int]]) -> CachedRows | None:
    """Return rows of several sources' cached features as those of one batch."""
    return CachedRows.of(
        [
            each.values[row].numpy() if each is not None and each.there[row] else None
            for each, row in rows
        ]
    )


TrainingPairs: TypeAlias = PairMemory | StreamingPairs | MixedPairs


def mixed(
    members: Sequence[PairMemory] | Sequence[StreamingPairs], weights: Sequence[float]
) -> TrainingPairs:
    """Return one source as it is, or a mixture of several."""
    return members[0] if len(members) == 1 else MixedPairs(members, weights)
