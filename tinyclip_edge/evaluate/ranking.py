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


def standard_error(share: float, n: int) -> float:
    """Return the standard error of a share of ``n`` independent hits and misses."""
    return math.sqrt(share * (1.0 - share) / n)
