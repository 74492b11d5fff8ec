"""Importance weights of pairs: how much more likely they are in the target than in the set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyclip_edge.selection.ngrams import Buckets, Ints

Doubles = npt.NDArray[np.float64]


def log_ratio(target: Ints, raw: Ints, smoothing: float) -> Doubles:
    """Return log p / q of each bucket from the n-gram counts of target and set.

    ``smoothing``: share of q mixed into p, so that an n-gram missing from the target costs
    ``-log smoothing``, however rare it is in the set. Buckets missing from the set get 0.
    """
    p, q = target / target.sum(), raw / raw.sum()
    ratio = np.divide(p, q, out=np.zeros(len(q)), where=q > 0)
    mixed = (1 - smoothing) * ratio + smoothing
    return np.where(q > 0, np.log(mixed), 0.0)


def pair_weights(ids: Buckets, caption_ends: Ints, pair_ends: Ints, ratio: Doubles) -> Doubles:
    """Return the log weight of each pair.

    A caption's log weight is the sum over its n-grams; a pair's weight is the mean of its captions'
    weights. ``caption_ends``: positions in ``ids``; ``pair_ends``: positions in ``caption_ends``.
    Each pair has at least one caption.
    """
    if not len(pair_ends):
        return np.empty(0)
    sums = np.concatenate([[0.0], np.cumsum(ratio[ids])])
    captions = np.diff(sums[np.concatenate([[0], caption_ends])])
    starts = np.concatenate([[0], pair_ends[:-1]])
    counts = np.diff(np.concatenate([[0], pair_ends]))
    largest = np.maximum.reduceat(captions, starts)
    shares = np.exp(captions - np.repeat(largest, counts))
    weights: Doubles = largest + np.log(np.add.reduceat(shares, starts) / counts)
    return weights


def gumbel(seed: int, mark: str, count: int) -> Doubles:
    """Return noise for the pairs of a unit, the same wherever and whenever it is read.

    The ``k`` pairs with the largest sums of log weight and noise are a draw without replacement in
    proportion to the weights.
    """
    return np.random.default_rng([seed, int(mark, 16)]).gumbel(size=count)
