"""The hashed captions of all shards: read once, in processes or on a cluster, stored on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from tinyclip_edge.collection.embed_engines import (
    Event,
    Outcome,
    embed_here,
    embed_in_processes,
    embed_on_cluster,
)
from tinyclip_edge.collection.failed_units import MOST_FAILED, failed_units
from tinyclip_edge.collection.shard_units import Unit
from tinyclip_edge.data.pairs import BadSamples
from tinyclip_edge.data.source import PairSource
from tinyclip_edge.errors import DataError, MissingExtraError
from tinyclip_edge.runtime.progress import reported
from tinyclip_edge.runtime.protocol import Progress
from tinyclip_edge.selection.caption_task import CaptionTask
from tinyclip_edge.selection.ngrams import Ints
from tinyclip_edge.selection.unit_file import HashedUnit, read_unit


@dataclass(slots=True)
class HashedSet:
    """The units of a source, each with a file once it is read; files of killed calls are reused."""

    task: CaptionTask
    source: PairSource
    units: Sequence[Unit]
    read: int = 0  # units read by this call
    sizes: list[int] = field(default_factory=list)  # pairs of each unit

    @property
    def pairs(self) -> int:
        """Number of pairs of all units."""
        return sum(self.sizes)

    def __iter__(self) -> Iterator[HashedUnit]:
        """Load the units one by one. Raises DataError for a damaged file."""
        for unit in self.units:
            yield read_unit(self.task.path(unit))

    def fill(self, workers: int, cluster: str | None, progress: Progress) -> None:
        """Read the units that have no file.

        Raises DataError for shards that cannot be read, after reading the others, and if more than
        one per cent of the samples cannot be used.
        """
        todo = [unit for unit in self.units if not self.task.path(unit).is_file()]
        failed: list[Outcome[str]] = []
        done = 0
        with (
            closing(self._events(todo, workers, cluster)) as events,  # type: ignore[type-var]
            reported(progress, "pairs") as report,
        ):
            for event in events:
                if not isinstance(event, Outcome):
                    done += event.pictures
                    report(done, None)
                    continue
                self._end(event, failed)
        if failed:
            raise failed_units(failed, len(self.units), "read")
        self._check()

    def _events(
        self, todo: Sequence[Unit], workers: int, cluster: str | None
    ) -> Iterator[Event[str]]:
        if todo and cluster is not None:
            return embed_on_cluster(self.task, todo, cluster)
        if todo and workers > 1:
            return embed_in_processes(self.task, todo, workers)
        return embed_here(self.task, todo)

    def _end(self, event: Outcome[str], failed: list[Outcome[str]]) -> None:
        path = self.task.path(event.unit)
        if event.result is None:
            failed.append(event)
            if isinstance(event.error, MissingExtraError):
                raise event.error
            if len(failed) == MOST_FAILED:
                raise failed_units(failed, len(self.units), "read")
        elif not path.is_file():
            raise DataError(
                f"{path} was written on another machine; --work must be a folder that all machines "
                "share"
            )
        else:
            self.read += 1

    def _check(self) -> None:
        self.sizes = []
        for unit in self:
            self.sizes.append(unit.pairs)
            self.source.losses.merge(unit.losses)
        BadSamples(self.source.name, self.source.losses).check(self.pairs, final=True)
        if not self.pairs:
            raise DataError(f"{self.source.name} has no pairs with captions")

    def counts(self) -> Ints:
        """Return how often each bucket occurs."""
        counts = np.zeros(self.task.hashing.buckets, np.int64)
        for unit in self:
            counts += np.bincount(unit.ids, minlength=len(counts))
        return counts
