"""Text-image retrieval: recall@k in both directions, and among 100 random candidates.

With several captions per image (Flickr30k, COCO: 5), every caption is a query, and an image query
counts as a hit for any of its captions, as usual. Shapes: N images, M captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

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
_QUERY_BLOCK = 1024  # queries scored at a time, which bounds memory


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Recall@k as shares of 1, with ``texts`` captions and ``n`` images."""

    n: int  # images
    texts: int
    t2i: dict[int, float]  # captions are queries, images candidates
    i2t: dict[int, float]  # the reverse
    t2i_stderr: dict[int, float]
    i2t_stderr: dict[int, float]

    def mean(self, k: int) -> float:
        """Return recall@k averaged over both directions."""
        return (self.t2i[k] + self.i2t[k]) / 2

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class RetrievalHits(NamedTuple):
    """Whether each query has a correct candidate among the first k; ties give fractions."""

    owners: npt.NDArray[np.int64]  # the image of each caption, [M]
    t2i: dict[int, Hits]  # of captions, [M]
    i2t: dict[int, Hits]  # of images, [N]

    def figures(self) -> Retrieval:
        """Return recall with its standard errors."""
        images = np.arange(len(self.i2t[RECALL_AT[0]]))
        return Retrieval(
            n=len(images),
            texts=len(self.owners),
            t2i={k: float(hits.mean()) for k, hits in self.t2i.items()},
            i2t={k: float(hits.mean()) for k, hits in self.i2t.items()},
            t2i_stderr={k: clustered_error(hits, self.owners) for k, hits in self.t2i.items()},
            i2t_stderr={k: clustered_error(hits, images) for k, hits in self.i2t.items()},
        )


@dataclass(frozen=True, slots=True)
class HundredWay:
    """Share of images whose own text ranks first among ``ways`` random ones."""

    n: int  # pairs to draw from
    ways: int
    draws: int
    top1: float
    stderr: float  # for n pairs; more draws from the same pairs do not reduce it

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def retrieval(
    embedder: Embedder,
    images: Sequence[ImageInput],
    texts: Sequence[str],
    owners: Sequence[int] | None = None,
) -> Retrieval:
    """Measure recall@1, @5 and @10; see ``retrieval_of_features``."""
    _check(len(images), len(texts), owners)
    return retrieval_of_features(embedder.encode_image(images), embedder.encode_text(texts), owners)


def retrieval_of_features(
    image: Features, text: Features, owners: Sequence[int] | None = None
) -> Retrieval:
    """Measure recall of unit-norm features ``[N, D]`` and ``[M, D]``; ties are averaged.

    ``owners`` is the image index of each caption; None if rows are pairs. Raises DataError unless
    every image has a caption.
    """
    return retrieval_hits(image, text, owners).figures()


def retrieval_hits(
    image: Features, text: Features, owners: Sequence[int] | None = None
) -> RetrievalHits:
    """Return the hits of each query; arguments as for ``retrieval_of_features``."""
    image_indices = _check(len(image), len(text), owners)
    all_images = np.arange(len(image))
    t2i = _hits(text, image, lambda scores, rows, k: hits_at(scores, image_indices[rows], k))
    i2t = _hits(
        image,
        text,
        lambda scores, rows, k: any_hit_at(scores, all_images[rows, None] == image_indices, k),
    )
    return RetrievalHits(image_indices, t2i, i2t)


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
        sample = rng.choice(n, size=ways, replace=False)
        total += float(hits_at(image[sample] @ text[sample].T, diagonal, 1).mean())
    top1 = total / draws
    return HundredWay(n=n, ways=ways, draws=draws, top1=top1, stderr=standard_error(top1, n))


def _hits(
    queries: Features,
    candidates: Features,
    count: Callable[[Features, slice, int], Hits],
) -> dict[int, Hits]:
    """Return the hits of all queries at each k; ``count`` computes those of a block of scores."""
    hits: dict[int, list[Hits]] = {k: [] for k in RECALL_AT}
    for start in range(0, len(queries), _QUERY_BLOCK):
        rows = slice(start, start + _QUERY_BLOCK)
        scores = queries[rows] @ candidates.T
        for k in RECALL_AT:
            hits[k].append(count(scores, rows, k))
    return {k: np.concatenate(blocks) for k, blocks in hits.items()}


def _check(images: int, texts: int, owners: Sequence[int] | None) -> npt.NDArray[np.int64]:
    """Return the image index of each caption; raise DataError when the counts do not match."""
    if owners is None and images != texts:
        raise DataError(f"retrieval needs pairs: there are {images:,} images but {texts:,} texts")
    if images == 0:
        raise DataError("retrieval needs at least one pair; the set is empty")
    if owners is None:
        return np.arange(images)
    image_indices = np.asarray(owners, dtype=np.int64)
    if len(image_indices) != texts or not np.array_equal(
        np.unique(image_indices), np.arange(images)
    ):
        raise DataError(
            f"retrieval: {len(image_indices):,} image indices for {texts:,} captions must include "
            f"each of {images:,} images"
        )
    return image_indices
