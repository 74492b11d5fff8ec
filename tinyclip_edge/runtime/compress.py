"""Compress an index, and measure the recall lost against the float one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.vectors import int8_codes, unit

if TYPE_CHECKING:
    from tinyclip_edge.runtime.index import ImageIndex


@dataclass(frozen=True, slots=True)
class RecallCost:
    """How a compressed index compares with the exact one; shares are 0 to 1."""

    queries: int
    k: int
    bytes_exact: int
    bytes_small: int
    same_first: float  # queries with the same best picture
    overlap: float  # share of the k best pictures in common, mean over the queries
    score_error: float  # largest difference of a cosine
    recall_exact: float | None = None  # queries with the right picture among the k best
    recall_small: float | None = None

    @property
    def recall_cost(self) -> float | None:
        """Recall@k lost; None if the right pictures are unknown."""
        if self.recall_exact is None or self.recall_small is None:
            return None
        return self.recall_exact - self.recall_small

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "recall_cost": self.recall_cost}


def recall_cost(
    exact: ImageIndex,
    small: ImageIndex,
    queries: Features,
    *,
    k: int = 10,
    right: Sequence[int] | None = None,
) -> RecallCost:
    """Search both indexes with unit-norm ``[Q, D]`` and compare the results.

    ``right``: row of each query's right picture, if known. Raise DataError for indexes of
    different pictures, or without queries.
    """
    if exact.keys != small.keys or exact.model_hash != small.model_hash:
        raise DataError("recall cost: the indexes are of different pictures or models")
    if not len(queries) or not len(exact) or k < 1:
        raise DataError(
            "recall cost: it needs at least one query and one picture, and k must be 1 or more"
        )
    if right is not None and len(right) != len(queries):
        raise DataError(
            f"recall cost: there are {len(right):,} correct pictures for {len(queries):,} queries"
        )
    scores = exact.scores(queries), small.scores(queries)
    exact_best, small_best = (
        np.argsort(-cosines, axis=1, kind="stable")[:, :k] for cosines in scores
    )
    common = [len(np.intersect1d(a, b)) for a, b in zip(exact_best, small_best, strict=True)]
    return RecallCost(
        queries=len(queries),
        k=k,
        bytes_exact=exact.nbytes,
        bytes_small=small.nbytes,
        same_first=float((exact_best[:, 0] == small_best[:, 0]).mean()),
        overlap=float(np.mean(common)) / exact_best.shape[1],
        score_error=float(np.abs(scores[0] - scores[1]).max()),
        recall_exact=None if right is None else _recall(exact_best, right),
        recall_small=None if right is None else _recall(small_best, right),
    )


def _recall(nearest: npt.NDArray[np.intp], right: Sequence[int]) -> float:
    return float((nearest == np.asarray(right)[:, None]).any(axis=1).mean())


def compressed(index: ImageIndex, dimensions: int | None, *, int8: bool) -> ImageIndex:
    """Return a smaller index of the same pictures; see ``ImageIndex.compressed``."""
    full = index.features.shape[1]
    if index.scales is not None:
        raise DataError("index: it is already compressed; compress the original one")
    if dimensions is not None and not 1 <= dimensions <= full:
        raise DataError(f"index: dimensions must be 1 to {full}, not {dimensions}")
    vectors = np.asarray(index.features, dtype=np.float32)
    width = index.width
    if dimensions is not None and dimensions < full:
        vectors, width = unit(vectors[:, :dimensions]), width or full
    if not int8:
        return replace(index, features=vectors, width=width, graph=None)
    codes, scales = int8_codes(vectors)
    return replace(index, features=codes, scales=scales, width=width, graph=None)


def in_form_of(index: ImageIndex, other: ImageIndex) -> ImageIndex:
    """Return the other index in the dimensions and precision of the first."""
    width, other_width = index.features.shape[1], other.features.shape[1]
    if other_width < width:
        raise DataError(f"index: the other one has {other_width} dimensions, fewer than {width}")
    if width == other_width and (index.scales is None) == (other.scales is None):
        return other
    if other.scales is not None:
        vectors = np.asarray(other.features * other.scales[:, None], dtype=np.float32)
        other = replace(other, features=vectors, scales=None)
    return compressed(other, width, int8=index.scales is not None)
