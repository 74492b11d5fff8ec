"""Removal of near-duplicates: of pairs with almost the same picture, only the best one stays.

D is the width of unit-norm embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.runtime.graph import require_usearch

if TYPE_CHECKING:
    from usearch.index import Index

Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]

BATCH = 1024
EXACT_BELOW = 1 << 14  # embeddings; up to this number all are compared
ROUNDING = 1e-3  # rounding error of cosines in float16


def first_of_each(embeddings: Halves, order: Ints, count: int, cosine: float) -> Ints:
    """Return the first ``count`` of ``order`` that are not near-duplicates of an earlier one.

    ``embeddings``: ``[N, D]``, which may be on disk; ``order``: rows, best first. A near-duplicate
    has a cosine of at least ``cosine``. Neighbours come from a graph of usearch, built in one
    thread, so that the result is the same each time. Returns fewer if there are no more.
    """
    graph = _graph(embeddings.shape[1])
    chosen: list[int] = []
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = np.asarray(embeddings[rows], np.float32)
        fresh = _unlike_earlier(graph, batch, cosine - ROUNDING)
        fresh = fresh[_unlike_each_other(batch[fresh], cosine - ROUNDING)]
        fresh = fresh[: count - len(chosen)]
        if len(fresh):
            labels = np.arange(len(chosen), len(chosen) + len(fresh), dtype=np.uint64)
            graph.add(labels, batch[fresh], threads=1)
            chosen += rows[fresh].tolist()
        if len(chosen) == count:
            break
    return np.array(chosen, np.int64)


def _graph(width: int) -> Index:
    require_usearch()
    from usearch.index import Index

    return Index(ndim=width, metric="cos", dtype="f16")


def _unlike_earlier(graph: Any, batch: npt.NDArray[np.float32], least: float) -> Ints:  # noqa: ANN401
    if not len(graph):
        return np.arange(len(batch))
    matches = graph.search(batch, 1, threads=1, exact=len(graph) < EXACT_BELOW)
    distances = np.asarray(matches.distances).reshape(len(batch), -1)[:, 0]
    return np.flatnonzero(1 - distances < least)


def _unlike_each_other(batch: npt.NDArray[np.float32], least: float) -> Ints:
    near = batch @ batch.T >= least
    rows: list[int] = []
    for row in range(len(batch)):
        if not near[row, rows].any():
            rows.append(row)
    return np.array(rows, np.int64)
