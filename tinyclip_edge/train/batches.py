"""The batches of a run, prepared ahead of its steps and resumed from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tinyclip_edge.config import DataConfig, RunConfig
from tinyclip_edge.data import Augment, Batch, Prefetch
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.setup import Setup

StreamPositions = dict[int, dict[str, Any]]  # StreamPosition.plain of all processes


def open_feed(
    config: RunConfig, setup: Setup, start: int, positions: StreamPositions | None
) -> Prefetch:
    """Return this process' rows of the batches after step ``start``, as an iterable context.

    ``positions`` are those of a checkpoint; without them, a stream reads and skips the earlier
    pairs.
    """
    pairs, size = setup.pairs, config.optim.batch_size
    seed, distinct, rows = config.seed, config.data.batch_distinct, setup.distributed.rows(size)
    batches = pairs.batches(
        start, size, seed=seed, distinct=distinct, rows=rows, position=positions
    )
    if (augment := make_augment(config.data)) is not None:
        batches = _with_draws(batches, augment, start, config, rows)
    return Prefetch(
        batches,
        range(start, setup.stages[-1].end),
        lambda: pairs.position,
        pin=setup.accelerator.device.type == "cuda",
    )


def make_augment(data: DataConfig) -> Augment | None:
    """Return the random crops of each step; None if pictures are not augmented."""
    if data.augment_crop is None:
        return None
    return Augment(data.augment_crop, data.augment_flip, data.augment_colour)


def _with_draws(
    batches: Iterator[Batch], augment: Augment, start: int, config: RunConfig, rows: slice
) -> Iterator[Batch]:
    """Add each step's random crops to its batch, for the rows of this process."""
    for step, batch in enumerate(batches, start):
        draws = augment.draw(config.seed, step, config.optim.batch_size)[rows]
        # A stream skips images that cannot be decoded.
        yield replace(batch, draws=draws[: len(batch.keys)])


def gathered(feed: Prefetch, done: int, distributed: DistributedContext) -> StreamPositions | None:
    """Return the stream positions of all processes after ``done`` steps; None without a stream."""
    position = feed.position(done)
    positions = distributed.all_gather(None if position is None else position.plain())
    # A group of shards that two processes read has the same position in both.
    merged = {number: place for groups in positions if groups for number, place in groups.items()}
    return merged or None
