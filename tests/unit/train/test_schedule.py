"""Stages in steps, worked out by hand; what does not fit is refused before it starts."""

from __future__ import annotations

import math

import pytest

from tinyclip_edge.config import RunConfig
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.train.optimizer import Restart
from tinyclip_edge.train.schedule import MaskSteps, gate_distance, plan_stages


def config(**sections):
    base = {
        "teacher": {"model": "t"},
        "data": {"train": "x.tar"},
        "inherit": {"method": "masks"},
        "optim": {"steps": 1000, "batch_size": 32, "lr": 1e-3, "warmup": 0.1},
        "masks": {"lr": 0.05, "prune": 400, "extra": 0.2, "warmup": 0.25},
    }
    return RunConfig.model_validate({**base, **sections})


def test_a_run_without_stages_is_one_stage_of_its_own_optimizer():
    one = config(student={"model": "s"}, inherit={"method": "uniform"})
    (stage,) = plan_stages(one)
    assert (stage.number, stage.of, stage.began, stage.end) == (1, 1, 0, 1000)
    assert stage.optim is one.optim
    assert (stage.keep, stage.student, stage.masks) == (None, "s", None)


def test_stages_follow_each_other_in_steps():
    stages = plan_stages(
        config(
            stages=[
                {"student": {"embed_dim": 8}, "steps": 300, "lr": 2e-3},
                {"keep": 0.75, "samples": 32 * 600 + 1},
                {"keep": 0.5, "prune": 0.5, "warmup": 20.0},
            ]
        )
    )
    assert [(s.number, s.began, s.end) for s in stages] == [
        (1, 0, 300), (2, 300, 901), (3, 901, 1901),
    ]  # fmt: skip
    assert [s.optim.lr for s in stages] == [2e-3, 1e-3, 1e-3]
    assert [s.optim.warmup_steps for s in stages] == [30, 60, 20]
    # 601 steps: prune after 400, wait a fifth; 1000 steps: prune after half, wait a fifth
    assert stages[1].masks == MaskSteps(rise=100, prune=400, wait=120, rewarm=0.1)
    assert stages[2].masks == MaskSteps(rise=125, prune=500, wait=200, rewarm=0.1)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"stages": [{"keep": 0.5, "steps": 500}]},
            "stage 1: masks are pruned after 400 steps and up to 100 later",
        ),
        (
            {"stages": [{"keep": 0.5}], "masks": {"lr": 0.05, "prune": 400, "warmup": 401.0}},
            r"stage 1: the target of the masks rises over 401 steps, but they are pruned after 400",
        ),
        (
            {"stages": [{"student": "a", "steps": 5, "warmup": 9.0}, {"keep": 0.5}]},
            r"stage 1: warmup \(9 steps\) must be below steps \(5\)",
        ),
    ],
)
def test_stages_that_are_too_short_are_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        plan_stages(config(**sections))


@pytest.mark.parametrize(("map_steps", "expected"), [(0.2, 200), (0.0004, None), (30, 30)])
def test_a_mapping_is_learnt_in_a_share_or_in_a_number_of_steps(map_steps, expected):
    inherit = {"method": "uniform", "plan": "mapped", "map_steps": float(map_steps)}
    run = config(student={"model": "s"}, inherit=inherit)
    if expected is None:
        with pytest.raises(ConfigError, match=r"inherit\.map_steps gives the mapping 0 of"):
            plan_stages(run)
        return
    (stage,) = plan_stages(run)
    assert (stage.map_steps, stage.folds, stage.masks) == (expected, expected, None)


def test_how_far_gates_travel():
    # P[z > 0] of both units of a parameter is sqrt(keep); from the clamp 4.605 down to there.
    for keep in (0.25, 0.5, 0.75):
        a = 4.605 - gate_distance(keep)
        survival = 1 - 1 / (1 + math.exp(-(2 / 3 * math.log(1 / 11) - a)))
        assert survival == pytest.approx(math.sqrt(keep), rel=1e-9)
    assert gate_distance(1.0) == 0.0


def test_the_rate_comes_back_gently_after_a_prune():
    restart = Restart(step=100, steps=9)
    assert [restart.factor(n) for n in (100, 101, 109, 500)] == pytest.approx([0.1, 0.2, 1, 1])
    assert Restart(step=100, steps=0).factor(100) == 1.0  # masks.rewarm is 0
