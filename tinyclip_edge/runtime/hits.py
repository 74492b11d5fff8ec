"""Results of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.vectors import best_rows


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; ``score`` is the cosine similarity."""

    key: str
    score: float
    metadata: Mapping[str, Any] | None = field(default=None, compare=False)


def best_hits(
    scores: Features,
    k: int,
    keys: Sequence[str],
    metadata: Sequence[Mapping[str, Any]] | None = None,
    *,
    min_score: float | None = None,
) -> list[Hit]:
    """Return the ``k`` best of scores ``[N]``, best first, ties in stored order."""
    return [
        Hit(keys[i], float(scores[i]), None if metadata is None else metadata[i])
        for i in best_rows(scores, k)
        if min_score is None or scores[i] >= min_score
    ]
