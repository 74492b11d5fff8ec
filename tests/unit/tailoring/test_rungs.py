"""Successive halving, by hand."""

from __future__ import annotations

import math

import pytest

from tinyclip_edge.tailoring.rungs import rung_sizes, rung_steps, survivors


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [2, 1]), (3, [3, 1]), (6, [6, 3, 1]), (8, [8, 4, 2, 1])]
)
def test_half_go_on(count, sizes):
    assert rung_sizes(count) == sizes


def test_a_rung_takes_its_share_of_the_seconds():
    # 1,200 s for four rungs: 300 s here; one step of all takes 0.75 s.
    assert rung_steps(1200, 4, [0.125, 0.25, 0.375]) == 400
    assert rung_steps(900, 3, [0.125, 0.25]) == 800  # the next one, with fewer
    assert rung_steps(-5, 1, [0.125]) == rung_steps(0.01, 1, [0.125]) == 1


def test_the_best_survive_and_equal_ones_by_what_comes_next():
    names = ["a", "b", "c", "d"]
    costs = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    scores = {"a": 0.5, "b": 0.9, "c": 0.5, "d": math.nan}
    assert survivors(names, scores, [costs], 1) == ["b"]
    assert survivors(names, scores, [costs], 2) == ["b", "c"]  # as good as a, and cheaper
    assert survivors(names, scores, [costs], 3) == ["a", "b", "c"]
    divergences = {"a": 0.1, "b": 0.3, "c": 0.2, "d": 0.0}
    assert survivors(names, scores, [divergences, costs], 2) == ["a", "b"]
    assert survivors(names, scores, [dict.fromkeys(names, 0.1), costs], 2) == ["b", "c"]
