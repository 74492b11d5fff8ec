"""Rank of the right candidate among scores, with ties averaged."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError

# Scores of equal embeddings may differ in the last bit: BLAS sums the edges of blocks differently.
TIE = 1e-6


def hits_at(
    scores: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], k: int
) -> npt.NDArray[np.float64]:
    """Return ``[Q]``: the probability that ``targets[q]`` is among the top ``k`` of ``scores[q]``.

    0 or 1 without ties. Tied candidates are ordered at random, so a model that gives every
    candidate the same score is at chance level, not at 0 or 100 %. Raises DataError for scores that
    are not finite.
    """
    _check_finite(scores)
    target_scores = np.take_along_axis(scores, targets[:, None], axis=1)
    higher = (scores > target_scores + TIE).sum(axis=1)
    ties = (np.abs(scores - target_scores) <= TIE).sum(axis=1)  # the target itself included
    probabilities: npt.NDArray[np.float64] = np.clip((k - higher) / ties, 0.0, 1.0)
    return probabilities


def any_hit_at(
    scores: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], k: int
) -> npt.NDArray[np.float64]:
    """Return ``[Q]``: the probability that a ``right`` candidate is among the top ``k``.

    Both are ``[Q, C]``, with at least one right candidate per query. Ties are averaged as in
    ``hits_at``. Raises DataError for scores that are not finite.
    """
    _check_finite(scores)
    best_right = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    is_tied = np.abs(scores - best_right) <= TIE
    ties, right_ties = is_tied.sum(axis=1), (is_tied & right).sum(axis=1)
    free_ranks = k - (scores > best_right + TIE).sum(axis=1)  # left for tied candidates
    miss_probability = np.ones(len(scores))
    for rank in range(k):
        remaining = np.maximum(ties - rank, 1)
        miss_probability *= np.where(
            rank < free_ranks, np.clip((ties - right_ties - rank) / remaining, 0.0, 1.0), 1.0
        )
    single = np.clip(free_ranks / ties, 0.0, 1.0)  # exact if one candidate is right
    probabilities: npt.NDArray[np.float64] = np.where(
        right_ties == 1, single, 1.0 - miss_probability
    )
    return probabilities


def _check_finite(scores: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(scores).all():  # NaN is neither higher nor tied, and would count as a hit
        raise DataError("the model's embeddings are not finite numbers (NaN): it is broken")


def clustered_error(hits: npt.NDArray[np.float64], owners: npt.NDArray[np.int64]) -> float:
    """Return the standard error of the mean of hits, clustered by owner.

    With one hit per owner it equals ``standard_error``.
    """
    sums = np.bincount(owners, weights=hits - hits.mean())
    tie_variance = hits * (1.0 - hits)  # variance of breaking ties at random
    return float(np.sqrt((sums**2).sum() + tie_variance.sum()) / len(hits))


def standard_error(share: float, n: int) -> float:
    """Return the standard error of a share of ``n`` independent hits and misses."""
    return math.sqrt(share * (1.0 - share) / n)
