"""How near two sets of embeddings are, and whether they rank alike: pure numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyclip_edge.runtime.protocol import Features

TIE = 1e-4  # a cosine margin below this is a tie that float rounding may decide either way
_CHUNK = 512  # texts compared with all images at a time
_SILENCE = 1e-20  # floor of squared error, 200 dB below a unit vector


@dataclass(frozen=True, slots=True)
class CosineStats:
    """Cosine to the reference over all rows, and signal to error in dB (more is better)."""

    cosine_min: float
    cosine_p1: float
    snr_db: float


@dataclass(frozen=True, slots=True)
class RetrievalRanks:
    """Text to image search, one query a text.

    `rank` [N] counts images above the paired one, `top` [N] is the best image, `margin` [N] the
    paired image's score less the best other's.
    """

    rank: npt.NDArray[np.int64]
    top: npt.NDArray[np.int64]
    margin: Features

    def recall(self, k: int) -> float:
        """Percent of texts whose own image is among the first k."""
        return 100.0 * float((self.rank < k).mean())


def cosine_stats(reference: Features, features: Features) -> CosineStats:
    """Compare ``[N, D]`` with ``[N, D]``; a row that is not finite counts as cosine -1."""
    if not np.isfinite(features).all():
        return CosineStats(-1.0, -1.0, -math.inf)
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(features, axis=1)
    cosine = (reference * features).sum(axis=1) / np.maximum(norms, 1e-12)
    signal = float(np.square(reference, dtype=np.float64).sum())
    error = float(np.square(reference - features, dtype=np.float64).sum())
    decibel = 10.0 * math.log10(signal / max(error, signal * _SILENCE))
    return CosineStats(float(cosine.min()), float(np.percentile(cosine, 1)), decibel)


def text_to_image(image: Features, text: Features) -> RetrievalRanks:
    """Rank all images for every text; the i-th image belongs to the i-th text."""
    ranks, tops, margins = [], [], []
    for start in range(0, len(text), _CHUNK):
        scores = text[start : start + _CHUNK] @ image.T
        row = np.arange(len(scores))
        paired = scores[row, start + row].copy()
        ranks.append((scores > paired[:, None]).sum(axis=1))
        tops.append(scores.argmax(axis=1))
        scores[row, start + row] = -np.inf
        margins.append(paired - scores.max(axis=1))
    return RetrievalRanks(np.concatenate(ranks), np.concatenate(tops), np.concatenate(margins))


def recall_drop(reference: RetrievalRanks, exported: RetrievalRanks) -> tuple[float, float]:
    """Return recall@1 lost in points, and its standard error over the paired queries."""
    losses = (reference.rank < 1).astype(np.float64) - (exported.rank < 1)
    stderr = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return 100.0 * float(losses.mean()), 100.0 * stderr


def changed_hits(reference: RetrievalRanks, exported: RetrievalRanks) -> int:
    """Count queries whose hit at 1 changed although the reference saw no tie."""
    changed = (reference.rank < 1) != (exported.rank < 1)
    return int((changed & (np.abs(reference.margin) > TIE)).sum())
