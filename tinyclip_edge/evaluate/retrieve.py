"""Text-image retrieval: recall@k in both directions, and among 100 random candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluate.ranking import hits_at, standard_error
from tinyclip_edge.runtime.protocol import Embedder, Features, ImageInput

RECALL_AT = (1, 5, 10)
_QUERY_BLOCK = 1024  # queries whose scores stand in memory at once


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Recall@k as shares of ``n`` queries, each with one right candidate of ``n``."""

    n: int
    t2i: dict[int, float]  # text asks, images answer
    i2t: dict[int, float]
    t2i_stderr: dict[int, float]
    i2t_stderr: dict[int, float]

    def mean(self, k: int) -> float:
        """Return recall@k averaged over both directions."""
        return (self.t2i[k] + self.i2t[k]) / 2

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class HundredWay:
    """Share of images whose own text wins among ``ways`` random ones."""

    n: int  # pairs drawn from
    ways: int
    draws: int
    top1: float
    stderr: float  # of a set of n pairs; the draws share them, so it does not shrink with draws

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def retrieval(embedder: Embedder, images: Sequence[ImageInput], texts: Sequence[str]) -> Retrieval:
    """Measure recall@1, @5 and @10 of pairs; raise DataError unless they pair up."""
    _check_pairs(len(images), len(texts))
    return retrieval_of_features(embedder.encode_image(images), embedder.encode_text(texts))


def retrieval_of_features(image: Features, text: Features) -> Retrieval:
    """Measure recall of unit-norm ``[N, D]`` features whose rows are pairs; ties are averaged."""
    _check_pairs(len(image), len(text))
    n = len(image)
    t2i, i2t = _recalls(text, image), _recalls(image, text)
    return Retrieval(
        n=n,
        t2i=t2i,
        i2t=i2t,
        t2i_stderr={k: standard_error(share, n) for k, share in t2i.items()},
        i2t_stderr={k: standard_error(share, n) for k, share in i2t.items()},
    )


def hundred_way(
    image: Features, text: Features, *, ways: int = 100, draws: int = 50, seed: int = 0
) -> HundredWay:
    """Average top-1 from image to text over seeded draws of ``ways`` pairs (all, if fewer)."""
    _check_pairs(len(image), len(text))
    n = len(image)
    ways = min(ways, n)
    rng = np.random.default_rng(seed)
    diagonal = np.arange(ways)
    total = 0.0
    for _ in range(draws):
        drawn = rng.choice(n, size=ways, replace=False)
        total += float(hits_at(image[drawn] @ text[drawn].T, diagonal, 1).mean())
    top1 = total / draws
    return HundredWay(n=n, ways=ways, draws=draws, top1=top1, stderr=standard_error(top1, n))


def _recalls(queries: Features, candidates: Features) -> dict[int, float]:
    hits: dict[int, list[npt.NDArray[np.float64]]] = {k: [] for k in RECALL_AT}
    for start in range(0, len(queries), _QUERY_BLOCK):
        scores = queries[start : start + _QUERY_BLOCK] @ candidates.T
        targets = np.arange(start, start + len(scores))
        for k in RECALL_AT:
            hits[k].append(hits_at(scores, targets, k))
    return {k: float(np.concatenate(parts).mean()) for k, parts in hits.items()}


def _check_pairs(images: int, texts: int) -> None:
    if images != texts:
        raise DataError(f"retrieval needs pairs: {images} images do not fit {texts} texts")
    if images == 0:
        raise DataError("retrieval needs at least one pair; the set is empty")
