"""Successive halving: equal time a rung, equal steps for all in it, the better half goes on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

PILOT_STEPS = 4  # of every candidate before the first rung: they measure its speed


def rung_sizes(count: int) -> list[int]:
    """Return the number of candidates in each rung, down to one: 6 gives 6, 3, 1."""
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes


def rung_steps(seconds: float, rungs: int, step_seconds: Collection[float]) -> int:
    """Return the steps that each candidate of a rung takes, one at least.

    ``seconds`` are left for this rung and all later ones, ``rungs`` in number; the candidates take
    ``step_seconds`` a step, one after the other.
    """
    return max(1, int(seconds / rungs / sum(step_seconds)))


def survivors(
    names: Sequence[str],
    scores: Mapping[str, float],
    ties: Sequence[Mapping[str, float]],
    count: int,
) -> list[str]:
    """Return the ``count`` names with the highest scores, in the order of ``names``.

    Of equal scores the one that is lower in the first of ``ties`` in which they differ survives. A
    score that is no number is the lowest.
    """

    def rank(name: str) -> tuple[float, ...]:
        is_number = not math.isnan(scores[name])
        return (
            not is_number,
            -scores[name] if is_number else 0.0,
            *(values[name] for values in ties),
        )

    best = set(sorted(names, key=rank)[:count])
    return [name for name in names if name in best]
