"""The pictures on which a student is measured and never trained, chosen by their content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

HELD_OUT = 0.2  # share of the pictures
FEWEST_HELD_OUT = 8
LARGEST_SHARE = 0.5
_LEADING = 16  # hexadecimal digits of a digest that are compared


def held_out(
    digests: Sequence[str], groups: Sequence[Sequence[int]], share: float = HELD_OUT
) -> npt.NDArray[np.bool_]:
    """Return which of N pictures are held out, ``[N]``.

    ``digests`` are SHA-256 of the files in hexadecimal, ``groups`` the indices of pictures that are
    nearly the same. A group, or a single picture, is held out if its smallest digest is within the
    first ``share`` of all possible digests, so that neither names nor other pictures matter. If
    that leaves fewer than 8, those with the next digests are added. A group with which more than
    half of the pictures would be held out stays in the training.
    """
    units = _units(digests, groups)
    chosen = np.zeros(len(digests), dtype=np.bool_)
    limit = share * 16**_LEADING
    for digest, members in sorted((min(digests[i] for i in unit), unit) for unit in units):
        count = int(chosen.sum())
        if int(digest[:_LEADING], 16) >= limit and count >= FEWEST_HELD_OUT:
            break
        if count + len(members) <= LARGEST_SHARE * len(digests):
            chosen[members] = True
    return chosen


def _units(digests: Sequence[str], groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return groups, with files of the same content joined, and all other pictures singly."""
    leader = list(range(len(digests)))

    def first(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    of_digest: dict[str, int] = {}
    for index, digest in enumerate(digests):
        leader[index] = first(of_digest.setdefault(digest, index))
    for group in groups:
        for index in group[1:]:
            one, two = sorted((first(group[0]), first(index)))
            leader[two] = one
    units: dict[int, list[int]] = {}
    for index in range(len(digests)):
        units.setdefault(first(index), []).append(index)
    return list(units.values())
