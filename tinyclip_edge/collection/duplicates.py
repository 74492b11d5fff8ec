"""Pictures of an index that are the same, or nearly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.vectors import ROWS, cosines
from tinyclip_edge.runtime.video_keys import split_key

MIN_SCORE = 0.98  # cosine from which pictures are nearly the same
_BLOCK = 512  # pictures that are compared with the others at a time


def duplicate_groups(
    index: ImageIndex,
    min_score: float = MIN_SCORE,
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> list[tuple[str, ...]]:
    """Return groups of keys; each picture has a cosine of ``min_score`` with another of its group.

    Frames of a single video do not form a group. Groups and keys are in stored order. ``progress``
    is called with the numbers of pictures done and in total. Raise DataError for a score that is
    not above 0 and at most 1.
    """
    firsts = first_duplicates(index.features, index.scales, min_score, progress=progress)
    groups = (tuple(index.keys[row] for row in rows) for rows in row_groups(firsts))
    return [keys for keys in groups if len({split_key(key)[0] for key in keys}) > 1]


def row_groups(firsts: npt.NDArray[np.intp]) -> list[list[int]]:
    """Return the rows of each group of at least two in ``first_duplicates``, in order."""
    groups: dict[int, list[int]] = defaultdict(list)
    for row, first in enumerate(firsts.tolist()):
        groups[first].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def first_duplicates(
    features: npt.NDArray[Any],
    scales: Features | None = None,
    min_score: float = MIN_SCORE,
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> npt.NDArray[np.intp]:
    """Return for each row of ``[N, D]``, unit norm, the first row of its group of duplicates.

    Each row of a group has a cosine of at least ``min_score`` with another row of it. ``scales``
    are those of int8 features. Raise DataError for a score that is not above 0 and at most 1.
    """
    if not 0 < min_score <= 1:
        raise DataError(f"min_score must be above 0 and at most 1, not {min_score}")
    count = len(features)
    leader = np.arange(count)
    for start in range(0, count, _BLOCK):
        block = _vectors(features, scales, slice(start, start + _BLOCK))
        for other in range(start, count, ROWS):
            part = slice(other, other + ROWS)
            own = None if scales is None else scales[part]
            rows, columns = np.nonzero(cosines(block, features[part], own) >= min_score)
            for one, two in zip((rows + start).tolist(), (columns + other).tolist(), strict=True):
                if one < two:
                    _join(leader, one, two)
        if progress is not None:
            progress(min(start + _BLOCK, count), count)
    return np.array([_first(leader, row) for row in range(count)], dtype=np.intp)


def _vectors(features: npt.NDArray[Any], scales: Features | None, part: slice) -> Features:
    vectors = np.asarray(features[part], dtype=np.float32)
    return vectors if scales is None else vectors * scales[part, None]


def _first(leader: npt.NDArray[np.intp], row: int) -> int:
    while leader[row] != row:
        leader[row] = leader[leader[row]]
        row = int(leader[row])
    return row


def _join(leader: npt.NDArray[np.intp], one: int, two: int) -> None:
    first, second = sorted((_first(leader, one), _first(leader, two)))
    leader[second] = first
