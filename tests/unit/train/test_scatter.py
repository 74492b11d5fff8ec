"""Which points no other beats, by hand."""

from __future__ import annotations

import pytest

from tinyclip_edge.report.scatter import Spot, pareto_front

#         x: bytes, y: accuracy
SPOTS = [Spot("a", 24, 28.8), Spot("b", 6, 27.0), Spot("c", 7, 29.0), Spot("d", 7, 28.0),
         Spot("e", 30, 29.5), Spot("f", 6, 26.0)]  # fmt: skip


@pytest.mark.parametrize(("lower", "best"), [(False, "bce"), (True, "f")])
def test_the_best_are_those_that_no_other_beats(lower, best):
    assert "".join(spot.label for spot in pareto_front(SPOTS, lower=lower)) == best


def test_equal_points_are_one_and_none_is_none():
    assert pareto_front([Spot("a", 1, 1), Spot("b", 1, 1)]) == [Spot("a", 1, 1)]
    assert pareto_front([]) == []
