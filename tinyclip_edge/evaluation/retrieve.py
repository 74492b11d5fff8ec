"""Text-image retrieval: recall@k in both directions, and among 100 random candidates.

As the field counts on sets with several captions an image (Flickr30k, COCO: 5): every caption is a
query, and an image is found by any of its captions. N images, M captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation.ranking import (
    any_hit_at,
    clustered_error,
    hits_at,
    standard_error,
)
from tinyclip_edge.runtime.protocol import Embedder, Features, ImageInput

RECALL_AT = (1, 5, 10)
Hits = npt.NDArray[np.float64]
_QUERY_BLOCK = 1024  # queries whose scores stand in memory at once


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Recall@k as shares: of ``texts`` captions among ``n`` images, and the other way round."""

    n: int  # images
    texts: int
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


def retrieval(
    embedder: Embedder,
    images: Sequence[ImageInput],
    texts: Sequence[str],
    owners: Sequence[int] | None = None,
) -> Retrieval:
    """Measure recall@1, @5 and @10, as ``retrieval_of_features``."""
    _check(len(images), len(texts), owners)
    return retrieval_of_features(embedder.encode_image(images), embedder.encode_text(texts), owners)


def retrieval_of_features(
    image: Features, text: Features, owners: Sequence[int] | None = None
) -> Retrieval:
    """Measure recall of unit-norm features ``[N, D]`` and ``[M, D]``; ties are averaged.

    ``owners`` is the image of each caption; None: rows are pairs. Raise DataError unless every
    image has a caption.
    """
    of = _check(len(image), len(text), owners)
    n = len(image)
    every = np.arange(n)
    t2i = _hits(text, image, lambda scores, at, k: hits_at(scores, of[at], k))
    i2t = _hits(image, text, lambda scores, at, k: any_hit_at(scores, every[at, None] == of, k))
    return Retrieval(
        n=n,
        texts=len(text),
        t2i={k: float(hits.mean()) for k, hits in t2i.items()},
        i2t={k: float(hits.mean()) for k, hits in i2t.items()},
        t2i_stderr={k: clustered_error(hits, of) for k, hits in t2i.items()},
        i2t_stderr={k: clustered_error(hits, every) for k, hits in i2t.items()},
    )


def hundred_way(
    image: Features, text: Features, *, ways: int = 100, draws: int = 50, seed: int = 0
) -> HundredWay:
    """Average top-1 from image to text over seeded draws of ``ways`` pairs (all, if fewer)."""
    _check(len(image), len(text), None)
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


def _hits(
    queries: Features,
    candidates: Features,
    count: Callable[[Features, slice, int], Hits],
) -> dict[int, Hits]:
    """Return the hits of all queries at each k; ``count`` says those of a block of scores."""
    hits: dict[int, list[Hits]] = {k: [] for k in RECALL_AT}
    for start in range(0, len(queries), _QUERY_BLOCK):
        at = slice(start, start + _QUERY_BLOCK)
        scores = queries[at] @ candidates.T
        for k in RECALL_AT:
            hits[k].append(count(scores, at, k))
    return {k: np.concatenate(blocks) for k, blocks in hits.items()}


def _check(images: int, texts: int, owners: Sequence[int] | None) -> npt.NDArray[np.int64]:
    """Return the image of each caption."""
    if owners is None and images != texts:
        raise DataError(f"retrieval needs pairs: {images} images do not fit {texts} texts")
    if images == 0:
        raise DataError("retrieval needs at least one pair; the set is empty")
    if owners is None:
        return np.arange(images)
    of = np.asarray(owners, dtype=np.int64)
    if len(of) != texts or not np.array_equal(np.unique(of), np.arange(images)):
        raise DataError(
            f"retrieval: {len(of)} numbers of images for {texts} captions must name each of "
            f"{images} images"
        )
    return of
