"""Where the right candidate stands among the scores, ties shared out fairly."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

# Equal embeddings may differ in the last bit of their scores: BLAS sums block edges otherwise.
TIE = 1e-6


def hits_at(
    scores: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], k: int
) -> npt.NDArray[np.float64]:
    """Return ``[Q]``: the chance that ``targets[q]`` is among the best ``k`` of ``scores[q]``.

    0 or 1 without ties. Candidates that tie with the target are as likely before as behind it, so
    that a model which gives every candidate the same score gets chance, neither 0 nor 100 %.
    """
    right = np.take_along_axis(scores, targets[:, None], axis=1)
    above = (scores > right + TIE).sum(axis=1)
    tied = (np.abs(scores - right) <= TIE).sum(axis=1)  # the target itself included
    chances: npt.NDArray[np.float64] = np.clip((k - above) / tied, 0.0, 1.0)
    return chances


def any_hit_at(
    scores: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], k: int
) -> npt.NDArray[np.float64]:
    """Return ``[Q]``: the chance that one of the ``right`` candidates is among the best ``k``.

    Both are ``[Q, C]``, with one right candidate a query at least. Ties are shared out as in
    ``hits_at``.
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    near = np.abs(scores - best) <= TIE
    tied, own = near.sum(axis=1), (near & right).sum(axis=1)
    places = k - (scores > best + TIE).sum(axis=1)  # that are left for the tied
    missed = np.ones(len(scores))
    for place in range(k):
        left = np.maximum(tied - place, 1)
        missed *= np.where(place < places, np.clip((tied - own - place) / left, 0.0, 1.0), 1.0)
    alone = np.clip(places / tied, 0.0, 1.0)  # exact where one candidate is right
    chances: npt.NDArray[np.float64] = np.where(own == 1, alone, 1.0 - missed)
    return chances


def clustered_error(hits: npt.NDArray[np.float64], owners: npt.NDArray[np.int64]) -> float:
    """Return the standard error of the mean of hits, those of one owner taken as dependent.

    With one hit an owner it is that of ``standard_error``.
    """
    sums = np.bincount(owners, weights=hits - hits.mean())
    shared = hits * (1.0 - hits)  # a tie is as uncertain as the draw that it stands for
    return float(np.sqrt((sums**2).sum() + shared.sum()) / len(hits))


def standard_error(share: float, n: int) -> float:
    """Return the standard error of a share of ``n`` independent hits and misses."""
    return math.sqrt(share * (1.0 - share) / n)
