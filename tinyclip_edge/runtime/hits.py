"""Results of a search."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyclip_edge.errors import DataError, shown
from tinyclip_edge.runtime.vectors import Nearest


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; ``score`` is the cosine similarity."""

    key: str
    score: float
    metadata: Mapping[str, Any] | None = field(default=None, compare=False)


def hits(
    nearest: Nearest,
    keys: Sequence[str],
    metadata: Sequence[Mapping[str, Any]] | None = None,
    *,
    min_score: float | None = None,
) -> list[Hit]:
    """Return rows of an index as results, without those below ``min_score``."""
    return [
        Hit(keys[row], score, None if metadata is None else metadata[row])
        for row, score in zip(nearest.rows.tolist(), nearest.scores.tolist(), strict=True)
        if min_score is None or score >= min_score
    ]


def check_search(k: int, min_score: float | None) -> None:
    """Raise DataError for a ``k`` or ``min_score`` that no search can have."""
    try:
        count = operator.index(k)
    except TypeError:
        count = 0
    if count < 1:
        raise DataError(f"k must be 1 or more, a whole number, not {shown(k)}")
    if min_score is not None and not math.isfinite(min_score):
        raise DataError(f"min_score must be a finite number, not {min_score}")
