"""Similarity of two sets of embeddings, and of their rankings. Imports only numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyclip_edge.runtime.protocol import Features

TIE = 1e-4  # cosine margin below which float rounding may change the order
_CHUNK = 512  # texts compared with all images at a time
_SILENCE = 1e-20  # minimum of the relative squared error, 200 dB below the signal


@dataclass(frozen=True, slots=True)
class CosineStats:
    """Cosine with the reference over all rows, and signal-to-error ratio in dB."""

    cosine_min: float
    cosine_p1: float
    snr_db: float


@dataclass(frozen=True, slots=True)
class RetrievalRanks:
    """Results of text-to-image search with one query per text.

    `rank` [N] is the number of images above the paired one, `top` [N] the first image, `margin` [N]
    the paired image's score minus the best other one.
    """

    rank: npt.NDArray[np.int64]
    top: npt.NDArray[np.int64]
    margin: Features

    def recall(self, k: int) -> float:
        """Return the percentage of texts whose paired image is among the first k."""
        return 100.0 * float((self.rank < k).mean())


def cosine_stats(reference: Features, features: Features) -> CosineStats:
    """Compare features ``[N, D]``; any value that is not finite gives the worst statistics."""
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
    """Return the points of recall@1 lost, and the standard error over the paired queries."""
    losses = (reference.rank < 1).astype(np.float64) - (exported.rank < 1)
    stderr = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return 100.0 * float(losses.mean()), 100.0 * stderr


def changed_hits(reference: RetrievalRanks, exported: RetrievalRanks) -> int:
    """Return the number of queries whose hit at 1 changed without a tie in the reference."""
    changed = (reference.rank < 1) != (exported.rank < 1)
    return int((changed & (np.abs(reference.margin) > TIE)).sum())


def ranking_figures(before: RetrievalRanks, after: RetrievalRanks) -> dict[str, float]:
    """Return recalls in per cent, drops in points and top-1 agreement in per cent."""
    drop, stderr = recall_drop(before, after)
    return {
        "recall@1": round(after.recall(1), 3),
        "recall@5": round(after.recall(5), 3),
        "recall@1_drop": round(drop, 3),
        "recall@1_stderr": round(stderr, 3),
        "recall@5_drop": round(before.recall(5) - after.recall(5), 3),
        "top1_agreement": round(100.0 * float((before.top == after.top).mean()), 3),
    }
