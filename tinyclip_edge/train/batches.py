"""The batches of a run: prepared ahead of its steps, taken up again where a checkpoint stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tinyclip_edge.config import DataConfig, RunConfig
from tinyclip_edge.data import Augment, Batch, Prefetch, StreamingPairs
from tinyclip_edge.train.builder import Setup
from tinyclip_edge.train.distributed import DistributedContext

StreamPositions = dict[int, dict[str, Any]]  # StreamPosition.plain of all processes


def open_feed(
    config: RunConfig, setup: Setup, start: int, places: StreamPositions | None
) -> Prefetch:
    """Return this process' rows of the batches after step ``start``, a context to iterate in.

    ``places`` is what a checkpoint of a stream has: without them its pairs are read past.
    """
    pairs, size = setup.pairs, config.optim.batch_size
    seed, distinct, rows = config.seed, config.data.batch_distinct, setup.ranks.rows(size)
    batches: Iterator[Batch]
    if isinstance(pairs, StreamingPairs):
        batches = pairs.batches(
            start, size, seed=seed, distinct=distinct, rows=rows, position=places
        )
    else:
        batches = pairs.batches(start, size, seed=seed, distinct=distinct, rows=rows)
    if (augment := make_augment(config.data)) is not None:
        batches = _drawn(batches, augment, start, config, rows)
    return Prefetch(
        batches,
        range(start, setup.stages[-1].end),
        lambda: pairs.position if isinstance(pairs, StreamingPairs) else None,
        pin=setup.accelerator.device.type == "cuda",
    )


def make_augment(data: DataConfig) -> Augment | None:
    """Return what changes the pictures of each step; None where they are shown as they are."""
    if data.augment_crop is None:
        return None
    return Augment(data.augment_crop, data.augment_flip, data.augment_colour)


def _drawn(
    batches: Iterator[Batch], augment: Augment, start: int, config: RunConfig, rows: slice
) -> Iterator[Batch]:
    """Give each batch the draws of its step, those of this process' rows."""
    for step, batch in enumerate(batches, start):
        draws = augment.draw(config.seed, step, config.optim.batch_size)[rows]
        # A stream leaves out what cannot be decoded.
        yield replace(batch, draws=draws[: len(batch.keys)])


def gathered(feed: Prefetch, done: int, ranks: DistributedContext) -> StreamPositions | None:
    """Return where all processes' streams stand after ``done`` steps; None when nothing streams."""
    position = feed.position(done)
    told = ranks.tell(None if position is None else position.plain())
    # A lane that two processes read stands at the same place in both.
    places = {number: place for groups in told if groups for number, place in groups.items()}
    return places or None
