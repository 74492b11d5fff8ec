"""The benchmark of domain importance: arms differ in what importance is measured on alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinyclip_edge.config import load_config


@pytest.fixture(scope="module")
def benchmark_module():
    import domain_importance

    return domain_importance


def test_arms_differ_in_what_importance_is_measured_on(benchmark_module):
    configs = {}
    for arm in benchmark_module.ARMS:
        section = benchmark_module.importance(arm, Path("train.tar"), Path("names.txt"))
        configs[arm] = load_config("starter-15", [f"inherit.importance={json.dumps(section)}"])
    parts = {arm: config.inherit.importance.parts for arm, config in configs.items()}
    assert [list(parts[arm]) for arm in ("general", "domain", "mix")] == [
        ["general"], ["domain"], ["general", "domain"]
    ]  # fmt: skip
    assert parts["mix"] == {**parts["general"], **parts["domain"]}
    assert not parts["mix"]["domain"].is_paired
    for config in configs.values():
        same = config.model_copy(update={"inherit": configs["mix"].inherit})
        assert same == configs["mix"]


def test_gains_are_over_the_general_calibration_with_the_same_seed(benchmark_module):
    def records(*values):
        return [
            {"seed": seed, "steps": 150, "seconds": 10.0, "encoder_parameters": 7,
             "general": {"r1": r1 / 2}, "curve": {"0": {"r1": 1.0}, "150": {"r1": r1}}}
            for seed, r1 in enumerate(values)
        ]  # fmt: skip

    row = benchmark_module.row(records(31.0, 32.5), records(30.0, 33.0))
    assert (row["gain"], row["gain_mean"], row["all_concepts_r1"]) == (
        [1.0, -0.5], 0.25, [15.5, 16.25]
    )  # fmt: skip
