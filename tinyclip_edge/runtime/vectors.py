"""Arithmetic on rows of embeddings: unit norm, int8, cosines, the nearest rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.protocol import Features

Codes: TypeAlias = npt.NDArray[np.int8]

ROWS = 8192  # converted to aligned floats at a time, to bound memory
# For a single query, few enough that they stay in the cache and that BLAS starts no threads, which
# would wait for each other longer than they work.
_ROWS_OF_ONE = 512
_STEPS = 127  # of an int8 on either side of zero


def unit(vectors: Features) -> Features:
    """Return the rows of ``[N, D]`` at unit norm; a row of zeros is returned unchanged."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norm > 0, norm, 1), dtype=np.float32)


def int8_codes(vectors: Features) -> tuple[Codes, Features]:
    """Return ``[N, D]`` as int8 with 127 steps on either side of zero, and the scales ``[N]``."""
    scales = np.abs(vectors).max(axis=1, initial=0) / _STEPS
    codes = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
    return codes, scales.astype(np.float32)


def score_blocks(
    queries: Features, features: npt.NDArray[Any], scales: Features | None
) -> Iterator[tuple[int, Features]]:
    """Yield the first row and float32 ``[Q, R]`` cosines of each block of at most ROWS rows.

    Raise DataError for numbers that are not finite.
    """
    rows = ROWS if len(queries) > 1 else _ROWS_OF_ONE
    # Reused for each block: the memory pages of a new array would cost more than the products.
    floats = np.empty((min(rows, len(features)), features.shape[1]), np.float32)
    for start in range(0, len(features), rows):
        block = slice(start, start + rows)
        part = floats[: len(features) - start]
        np.copyto(part, features[block])
        scores = queries @ part.T
        if scales is not None:
            scores *= scales[block]
        if not np.isfinite(scores).all():
            raise DataError("index: the query or the features are not finite numbers")
        yield start, scores


def cosines(queries: Features, features: npt.NDArray[Any], scales: Features | None) -> Features:
    """Return float32 ``[Q, N]`` products of ``[Q, D]`` with rows in float or int8."""
    products = np.empty((len(queries), len(features)), np.float32)
    for start, scores in score_blocks(queries, features, scales):
        products[:, start : start + scores.shape[1]] = scores
    return products


class Nearest(NamedTuple):
    """Rows near to a query, nearest first, ties in stored order."""

    rows: npt.NDArray[np.intp]
    scores: Features  # cosines

    def best(self, k: int) -> Nearest:
        """Return the ``k`` best."""
        order = best_rows(self.scores, k)
        return Nearest(self.rows[order], self.scores[order])


def nearest_rows(
    queries: Features, features: npt.NDArray[Any], scales: Features | None, k: int
) -> list[Nearest]:
    """Return the ``k`` rows nearest to each of ``[Q, D]``; memory does not grow with the rows."""
    nearest = [Nearest(np.empty(0, np.intp), np.empty(0, np.float32)) for _ in queries]
    for start, block in score_blocks(queries, features, scales):
        for query, scores in enumerate(block):
            before = nearest[query]
            if len(before.rows) < k:
                rows = best_rows(scores, k)
            else:  # a later row of the same score is further down in stored order
                rows = np.flatnonzero(scores > before.scores[-1])
            if len(rows):
                nearest[query] = Nearest(
                    np.concatenate([before.rows, rows + start]),
                    np.concatenate([before.scores, scores[rows]]),
                ).best(k)
    return nearest


def best_rows(scores: Features, k: int) -> npt.NDArray[np.intp]:
    """Return the rows of the ``k`` largest scores, largest first, ties in their order."""
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    # All that reach the k-th largest; a stable sort leaves ties in their order.
    rows = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]
