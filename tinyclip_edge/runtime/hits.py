"""Results of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
