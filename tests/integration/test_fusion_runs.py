"""Runs whose teachers are weighed by sample: cached, in parts, killed, in two stages."""

from __future__ import annotations

import pytest
import torch

from tinyclip_edge.models import load_clip, weights_hash
from tinyclip_edge.train import distill
from tinyclip_edge.train.tasks.teacher import Teacher
from toy_runs import STUDENT, KilledError, Watcher, events_of, kill, losses

pytestmark = pytest.mark.usefixtures("no_report")

STEPS = 8


@pytest.fixture
def fused(make, learnt_otherwise):
    """A configuration of two teachers, by the way in which they are fused."""

    def configure(fusion, **sections):
        teacher = {**make().teacher.model_dump(), "ensemble": [learnt_otherwise], "fusion": fusion}
        options = {"data": {"val": None, **sections.pop("data", {})},
                   "run": {"save_every": 3, **sections.pop("run", {})}}  # fmt: skip
        return make(teacher=teacher, **{"optim": {"steps": STEPS}, **options, **sections})

    return configure


def test_a_gate_is_trained_resumed_and_no_part_of_the_student(fused, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distill(fused("learned"), whole)
    with pytest.raises(KilledError):
        distill(fused("learned"), cut, observer=Watcher(5, kill))
    (state,) = (cut / "checkpoints").glob("*3/state.pt")
    saved = torch.load(state, weights_only=True)["beside"]
    assert {key.split(".")[0] for key in saved} == {"fusion_gate"}
    assert all(float(value.abs().max()) > 0 for value in saved.values())
    distill(fused("learned"), cut, resume=True)
    expected, resumed = losses(whole), losses(cut)
    assert list(resumed) == list(range(1, STEPS + 1))
    assert resumed == pytest.approx(expected, abs=1e-6)
    assert weights_hash(load_clip(str(cut)).model) == weights_hash(load_clip(str(whole)).model)
    assert not any("fusion" in name for name in load_clip(str(whole)).model.state_dict())
    steps = events_of(whole, "step")
    assert steps[0]["first_teacher"] == pytest.approx(0.5, abs=1e-6)
    assert steps[-1]["first_teacher"] != pytest.approx(0.5, abs=1e-4)
    assert all(step["fusion_nll"] > 0 for step in steps)


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "rounding"), [("confidence", 3e-3), ("learned", 1e-3)])
def test_several_cached_teachers_are_asked_once(fused, tmp_path, monkeypatch, fusion, rounding):
    live, cached = tmp_path / "live", tmp_path / "cached"
    distill(fused(fusion, data={"cache_teacher": False}), live)
    distill(fused("mean", data={"feature_cache": str(tmp_path / "cache")}), tmp_path / "mean")

    def ask(*_):
        raise AssertionError("the teachers were asked again")

    monkeypatch.setattr(Teacher, "encode_images", ask)
    monkeypatch.setattr(Teacher, "encode_texts", ask)
    # The cache of the mean serves: how teachers are fused is no part of their features.
    distill(fused(fusion, data={"feature_cache": str(tmp_path / "cache")}), cached)
    # They are cached in half precision; a share of confidence magnifies its rounding.
    assert losses(cached)[1] == pytest.approx(losses(live)[1], rel=5e-4)
    assert losses(cached) == pytest.approx(losses(live), rel=rounding)
    assert losses(cached) != pytest.approx(losses(tmp_path / "mean"), rel=rounding)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["confidence", "learned"])
def test_parts_of_a_batch_are_the_batch(fused, tmp_path, fusion):
    # Not cached: half precision makes a last bit of the teachers' features 5e-4 on some processors.
    data = {"cache_teacher": False}
    distill(fused(fusion, data=data), tmp_path / "whole")
    distill(fused(fusion, data=data, run={"micro_batch": 3}), tmp_path / "parts")
    parts, whole = losses(tmp_path / "parts"), losses(tmp_path / "whole")
    assert parts[1] == pytest.approx(whole[1], rel=5e-6)
    assert parts == pytest.approx(whole, rel=5e-5)  # steps enlarge rounding


@pytest.mark.slow
def test_a_gate_goes_on_in_the_next_stage(fused, tmp_path):
    shapes = [{"student": {"vision_cfg": {"layers": 3}}, "steps": 4},
              {"student": STUDENT, "steps": 4}]  # fmt: skip
    config = fused("learned", student={}, stages=shapes)
    distill(config, tmp_path / "run")
    weights = {e["step"]: e["first_teacher"] for e in events_of(tmp_path / "run", "step")}
    assert abs(weights[5] - weights[4]) < abs(weights[5] - weights[1])
