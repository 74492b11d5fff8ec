"""What is put into figures: the points of events, thinned, and the lines of loss terms."""

from __future__ import annotations

import pytest

from tinyclip_edge.report.drawing import evenly_spaced, loss_lines, points, stage_starts, thinned

STEPS = [
    {"kind": "step", "step": step, "stage": 1 + step // 3, "loss": 2.0 * step,
     "affinity": 2.0 * step, "kl": None if step == 2 else 1.0, "feature": True}
    for step in range(1, 6)
]  # fmt: skip


def test_only_finite_numbers_are_points():
    assert points(STEPS, "kl") == [(1.0, 1.0), (3.0, 1.0), (4.0, 1.0), (5.0, 1.0)]
    assert points(STEPS, "feature") == []
    for odd in (float("inf"), float("nan"), 10**400, -1e300, "1", None, [1.0]):
        assert points([{"step": 1, "kl": odd}], "kl") == []
    assert points(STEPS[:1], "loss", 100) == [(1.0, 200.0)]


def test_terms_with_the_same_values_share_a_line():
    assert [line.label for line in loss_lines(STEPS)] == ["loss, affinity", "kl"]
    assert stage_starts(STEPS) == [3.0]


def test_indices_are_spread_from_the_first_to_the_last():
    assert evenly_spaced(11, 3) == [0, 5, 10]
    assert evenly_spaced(4, 6) == [0, 1, 2, 3]
    assert evenly_spaced(7, 1) == [0]


def test_many_points_become_means_of_neighbours():
    line = [(float(step), float(step % 2)) for step in range(1000)]
    few = thinned(line, 300)  # four in one
    assert len(few) == 250
    assert few[0] == (pytest.approx(1.5), pytest.approx(0.5))
    assert few[-1] == (pytest.approx(997.5), pytest.approx(0.5))
    assert thinned(line, 1000) == line
