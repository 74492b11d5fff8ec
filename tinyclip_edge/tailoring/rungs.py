"""Successive halving: rungs of equal time, equal steps within one, the better half continues."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

PILOT_STEPS = 4  # of every candidate before the first rung, to measure its speed


def rung_sizes(count: int) -> list[int]:
    """Return the number of candidates in each rung, down to one: 6 gives 6, 3, 1."""
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes


def rung_steps(seconds: float, rungs: int, step_seconds: Collection[float]) -> int:
    """Return the number of steps for each candidate of a rung, at least one.

    ``seconds`` are left for ``rungs`` rungs, this one included; the candidates train one after the
    other and need ``step_seconds`` per step.
    """
    return max(1, int(seconds / rungs / sum(step_seconds)))


def survivors(
    names: Sequence[str],
    scores: Mapping[str, float],
    ties: Sequence[Mapping[str, float]],
    count: int,
) -> list[str]:
    """Return the ``count`` names with the highest scores, in the order of ``names``.

    Equal scores are ranked by the first of ``ties`` in which they differ, lower values first. NaN
    is the lowest score.
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
