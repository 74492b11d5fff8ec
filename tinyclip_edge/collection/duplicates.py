"""Pictures of an index that are the same, or nearly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.vectors import ROWS, cosines
from tinyclip_edge.runtime.video_keys import split_key

_BLOCK = 512  # pictures that are compared with others at a time


def duplicate_groups(
    index: ImageIndex,
    min_score: float = 0.98,
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> list[tuple[str, ...]]:
    """Return groups of keys; each picture of one has a cosine of ``min_score`` with another of it.

    Frames of one video are no group. Groups and keys are in stored order. ``progress`` is called
    with the pictures done and their number. Raise DataError for a score that is not above 0 and at
    most 1.
    """
    if not 0 < min_score <= 1:
        raise DataError(f"min_score must be above 0 and at most 1, not {min_score}")
    count = len(index)
    leader = np.arange(count)
    for start in range(0, count, _BLOCK):
        block = _vectors(index, start, start + _BLOCK)
        for other in range(start, count, ROWS):
            part = slice(other, other + ROWS)
            scales = None if index.scales is None else index.scales[part]
            rows, columns = np.nonzero(cosines(block, index.features[part], scales) >= min_score)
            for one, two in zip((rows + start).tolist(), (columns + other).tolist(), strict=True):
                if one < two:
                    _join(leader, one, two)
        if progress is not None:
            progress(min(start + _BLOCK, count), count)
    groups: dict[int, list[str]] = defaultdict(list)
    for row, key in enumerate(index.keys):
        groups[_first(leader, row)].append(key)
    return [tuple(keys) for keys in groups.values() if len({split_key(key)[0] for key in keys}) > 1]


def _vectors(index: ImageIndex, start: int, stop: int) -> Features:
    vectors = np.asarray(index.features[start:stop], dtype=np.float32)
    return vectors if index.scales is None else vectors * index.scales[start:stop, None]


def _first(leader: npt.NDArray[np.intp], row: int) -> int:
    while leader[row] != row:
        leader[row] = leader[leader[row]]
        row = int(leader[row])
    return row


def _join(leader: npt.NDArray[np.intp], one: int, two: int) -> None:
    first, second = sorted((_first(leader, one), _first(leader, two)))
    leader[second] = first
