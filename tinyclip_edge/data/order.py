"""Order of an epoch: no batch contains a concept twice, and every picture is used if possible."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def distinct_slots(concept_of: Ints, size: int) -> int:
    """Return the number of batches of an epoch, each containing a concept at most once."""
    counts = np.bincount(concept_of)
    most = max(1, len(concept_of) // size)
    return max(1, int(np.minimum(counts, most).sum()) // size)


def distinct_epoch(concept_of: Ints, size: int, rng: np.random.Generator) -> Ints:
    """Return pictures ``[slots, size]``, with distinct concepts in each row.

    The pictures of a concept are evenly spaced, so that each is used once per epoch. If a concept
    has more pictures than there are batches, some are skipped; with too few concepts, some pictures
    are used twice. There must be at least ``size`` concepts.
    """
    slots = distinct_slots(concept_of, size)
    pending = deque(_spread(concept_of, slots, rng).tolist())
    rows: list[list[int]] = []
    for _ in range(slots):
        row: dict[int, int] = {}  # concept to picture
        skipped: list[int] = []
        while pending and len(row) < size:
            picture = pending.popleft()
            if int(concept_of[picture]) in row:
                skipped.append(picture)
            else:
                row[int(concept_of[picture])] = picture
        pending.extendleft(reversed(skipped))
        if len(row) < size:
            _top_up(row, concept_of, size, rng)
        rows.append(list(row.values()))
    return np.array(rows, dtype=np.int64)


def _spread(concept_of: Ints, slots: int, rng: np.random.Generator) -> Ints:
    """Return a random, evenly spaced order of at most ``slots`` pictures per concept."""
    order = rng.permutation(len(concept_of))
    order = order[np.argsort(concept_of[order], kind="stable")]  # by concept, random within each
    counts = np.bincount(concept_of)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    concept = concept_of[order]
    turn = np.arange(len(order)) - starts[concept]  # of the picture within its concept
    limits = np.minimum(counts, slots)[concept]
    place = (turn + rng.random(len(counts))[concept]) / limits
    inside = turn < limits
    spread: Ints = order[inside][np.argsort(place[inside], kind="stable")]
    return spread


def _top_up(row: dict[int, int], concept_of: Ints, size: int, rng: np.random.Generator) -> None:
    """Fill a row with random pictures of other concepts."""
    for picture in rng.permutation(len(concept_of)).tolist():
        if len(row) == size:
            return
        row.setdefault(int(concept_of[picture]), picture)
