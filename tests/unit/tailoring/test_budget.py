"""Shapes inside a budget: predicted by a line, decided by what is measured."""

from __future__ import annotations

import pytest

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.tailoring.budget import Budget, Cost, CostModel, check_reachable, fitting
from tinyclip_edge.tailoring.shapes import ImageShape
from tinyclip_edge.tailoring.transformer_tower import TeacherTransformer

TOWER = TeacherTransformer(ImageShape((6,), 256, 4.0, 64), embed_dim=256, width_unit=64, stride=16)


def true_cost(shape: ImageShape) -> Cost:
    """A byte a parameter and 0.1 MB beside; a millisecond for 100 million products."""
    return Cost(0.1 + TOWER.parameters(shape) / 1e6, TOWER.macs(shape) / 1e8)


def model() -> CostModel:
    shapes = TOWER.shapes()
    return CostModel.through(TOWER, {each: true_cost(each) for each in (shapes[0], shapes[-1])})


def test_a_line_through_two_shapes_predicts_the_others():
    shape = ImageShape((3,), 192, 2.0, 64)
    # Blocks 3 * (4 + 2 * 2) * 192^2, patches 3 * 16^2 * 192, 17 positions, embedding.
    parameters = 884_736 + 147_456 + 3_264 + 49_152
    assert TOWER.parameters(shape) == parameters
    cost = model().cost(shape)
    assert cost.mb == pytest.approx(0.1 + parameters / 1e6)
    assert cost.ms == pytest.approx(true_cost(shape).ms)


def test_the_largest_that_fit_are_measured_and_chosen():
    measured = []

    def measure(shape):
        measured.append(shape)
        return true_cost(shape)

    budget = Budget(mb=1.5, ms=1.0)
    inside = fitting(model(), measure, budget, count=4)
    assert len(inside) == 4 and all(cost.ratio(budget) <= 1 for cost in inside.values())
    assert all(cost == true_cost(shape) for shape, cost in inside.items())
    assert len(measured) == len(set(measured)) <= 12
    assert {shape.layers for shape in inside} != {next(iter(inside)).layers}  # not all alike


def test_what_is_measured_decides():
    """All takes twice the predicted bytes: smaller shapes than predicted are inside."""
    budget = Budget(mb=1.5, ms=10.0)
    inside = fitting(
        model(), lambda shape: Cost(2 * true_cost(shape).mb, true_cost(shape).ms), budget, count=2
    )
    assert all(2 * true_cost(shape).mb <= 1.5 for shape in inside)


def test_what_stands_beside_the_tower_does_not_use_up_the_tries():
    """Of 4 MB 2.9 are a text tower: shapes a little too large for the rest are few."""

    def with_text(shape):
        return Cost(2.9 + true_cost(shape).mb, true_cost(shape).ms)

    shapes = TOWER.shapes()
    anchors = {each: with_text(each) for each in (shapes[0], shapes[-1])}
    inside = fitting(CostModel.through(TOWER, anchors), with_text, Budget(mb=4.0, ms=100), count=4)
    assert len(inside) == 4 and all(cost.mb <= 4 for cost in inside.values())


def test_the_teachers_shape_where_it_fits():
    inside = fitting(model(), true_cost, Budget(mb=100, ms=100), count=3)
    assert next(iter(inside)) == TOWER.shape and len(inside) == 3


def test_a_budget_that_cannot_be_met_names_the_nearest():
    smallest = TOWER.shapes()[-1]
    check_reachable(smallest, Cost(1, 1), Budget(1, 1), "teacher")
    with pytest.raises(ConfigError) as error:
        check_reachable(smallest, Cost(0.2341, 0.5), Budget(0.2, 1), "starter-teacher")
    assert str(error.value) == (
        "no student of starter-teacher fits into 0.2 MB and 1 ms: the smallest (1 layers, width "
        "64, 64 neurons, 32 pixels) takes 0.23 MB and 0.50 ms here; use --max-mb 0.24, or a "
        "smaller teacher"
    )
    with pytest.raises(ConfigError, match=r"use --max-mb 0\.24 and --max-ms 0\.50, or"):
        check_reachable(smallest, Cost(0.2341, 0.5), Budget(0.2, 0.1), "starter-teacher")
