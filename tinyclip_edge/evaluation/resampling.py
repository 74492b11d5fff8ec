"""Paired bootstrap: the same pictures drawn again and again, with replacement, for all models.

N pictures, Q kinds of queries (captions, pictures), M models, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 22  # elements of ``draws`` in memory at once

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Resampling:
    """How often pictures are drawn again, and the seed of the draws."""

    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PictureHits:
    """Hits of one model per picture, ``[Q, N]``: the number of hits, and the number of queries.

    All captions of a picture count for it, so that they are drawn together.
    """

    sums: Floats
    queries: Floats

    @property
    def score(self) -> float:
        """The share of hits, averaged over the kinds of queries."""
        return float((self.sums.sum(axis=1) / self.queries.sum(axis=1)).mean())


def resampled_scores(
    models: Sequence[PictureHits], *, resamples: int, rng: np.random.Generator
) -> Floats:
    """Return the scores ``[R, M]`` of models on resampled pictures of one set.

    Candidates stay the same: only the queries are drawn.
    """
    queries = models[0].queries
    pictures = queries.shape[1]
    sums = np.stack([model.sums for model in models], axis=1)  # [Q, M, N]
    block = max(1, _BLOCK // pictures)
    parts = []
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = (rng.integers(0, pictures, pictures) for _ in range(count))
        draws = np.stack([np.bincount(each, minlength=pictures) for each in drawn]).astype(float)
        hits = draws @ sums.transpose(0, 2, 1)  # [Q, R, M]
        parts.append((hits / (draws @ queries.T).T[..., None]).mean(axis=0))
    return np.concatenate(parts)


def interval(values: Floats, level: float) -> tuple[float, float]:
    """Return the percentiles that enclose the central ``level`` of the values ``[R]``."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
