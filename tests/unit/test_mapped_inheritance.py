"""The benchmark of learnt mappings: arms differ in the plan alone, gains are of the same seed."""

from __future__ import annotations

from argparse import Namespace

import pytest

from tinyclip_edge.config import load_config


@pytest.fixture(scope="module")
def benchmark_module():
    import mapped_inheritance

    return mapped_inheritance


def test_arms_differ_in_what_is_inherited_alone(benchmark_module):
    settings = Namespace(map_share=0.25, map_lr=3e-3)
    for student in benchmark_module.STUDENTS:
        plain, mapped = (
            load_config("starter-15", benchmark_module.overrides(settings, student, arm))
            for arm in benchmark_module.ARMS
        )
        assert (mapped.inherit.map_steps, mapped.inherit.map_lr) == (0.25, 3e-3)
        assert mapped.inherit.selection == plain.inherit.plan == "importance"
        assert mapped.model_copy(update={"inherit": plain.inherit}) == plain


def test_a_gain_is_over_importance_with_the_same_seed(benchmark_module):
    def records(*values):
        return [
            {"seed": seed, "steps": 400, "seconds": 10.0, "encoder_parameters": 7,
             "curve": {"0": {"r1": 1.0, "r5": 2.0}, "400": {"r1": r1, "r5": r1 + 20}}}
            for seed, r1 in enumerate(values)
        ]  # fmt: skip

    row = benchmark_module.row(records(31.0, 32.5), records(30.0, 33.0))
    assert (row["gain"], row["gain_mean"]) == ([1.0, -0.5], 0.25)
    assert row["r1_mean_by_step"] == {"0": 1.0, "400": 31.75}
