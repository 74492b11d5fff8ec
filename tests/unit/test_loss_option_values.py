"""The benchmark of loss options: every arm is a valid configuration, gains are of the same seed."""

from __future__ import annotations

import pytest

from tinyclip_edge.config import load_config


@pytest.fixture(scope="module")
def options():
    import loss_options

    return loss_options


def test_every_arm_changes_the_first_one(options):
    arms = options.ARMS | options.two_teachers("runs/other")
    first = load_config("starter", [*arms[options.BASELINE], "loss.teacher_logit_bias=-9.5"])
    assert (first.loss.weight("affinity"), first.loss.weight("contrastive")) == (1, 0)
    for name, overrides in arms.items():
        config = load_config("starter", [*overrides, "loss.teacher_logit_bias=-9.5"])
        assert (config == first) == (name == options.BASELINE), name
    assert next(iter(arms)) == options.BASELINE
    pair = load_config("starter", arms["two teachers, probabilities, second at temperature 2"])
    assert pair.teacher.ensemble[0].temperature == 2.0
    assert pair.loss.affinity_mean == "probabilities"


def record(seed, r1, prefixes=None):
    curve = {"400": {"r1": r1, "r5": r1 + 20}}
    about = {"seed": seed, "steps": 400, "seconds": 10.0, "curve": curve}
    return about if prefixes is None else {**about, "prefixes": prefixes}


def test_a_gain_is_over_the_baseline_of_the_same_seed(options):
    baseline = [record(0, 50.0), record(1, 52.0)]
    found = options.row([record(0, 51.0, {"32": 40.0}), record(1, 51.5, {"32": 42.0})], baseline)
    assert found["gain"] == [1.0, -0.5]
    assert found["gain_mean"] == 0.25
    assert found["r1_mean"] == 51.25
    assert found["r1_by_dimensions"] == {"32": 41.0}
    assert options.row(baseline, baseline)["gain_mean"] == 0.0
