"""A step whose loss is not finite leaves nothing behind in the student."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tinyclip_edge.models import load_clip
from tinyclip_edge.train import distill
from tinyclip_edge.train.running_statistics import RunningStatistics
from tinyclip_edge.train.tasks.distill_task import DistillTask
from toy_runs import Watcher, events_of

RESNET = {
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "head_width": 16},
    "text_cfg": {"width": 64, "heads": 1, "layers": 1},
}


def test_statistics_are_given_back():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.LayerNorm(3))
    statistics = RunningStatistics(model)
    model(torch.ones(4, 2, 3, 3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    statistics.save()
    model(torch.full((4, 2, 3, 3), torch.nan))
    assert model[0].running_mean.isnan().all()
    statistics.restore()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_batch_norms_are_looked_for_once(make, tmp_path, no_report, monkeypatch):
    """A ViT has none, and pays nothing for that at its steps."""
    looked, init = [], RunningStatistics.__init__

    def watched(statistics, model):
        looked.append(model)
        init(statistics, model)

    monkeypatch.setattr(RunningStatistics, "__init__", watched)
    result = distill(make(optim={"steps": 4}), tmp_path / "run", observer=Watcher())
    assert result.skipped_steps == 0 and len(looked) == 1


@pytest.mark.parametrize(("skipped", "ema"), [(2, None), (4, 0.9)])
def test_a_skipped_step_does_not_spoil_a_batch_norm(
    make, tmp_path, no_report, monkeypatch, skipped, ema
):
    """One batch of pictures is NaN in the towers: its step is skipped, the others count.

    After the last step an average is saved with the statistics of the student at that time.
    """
    terms, calls = DistillTask.terms, []

    def broken(task, batch):
        calls.append(batch)
        result = terms(task, batch)
        if len(calls) != skipped:
            return result
        for module in task.clip.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module(torch.full((2, module.num_features, 2, 2), torch.nan))
        return replace(result, loss=result.loss * math.nan)

    monkeypatch.setattr(DistillTask, "terms", broken)
    watcher = Watcher()
    optim = {"steps": 4, "ema": ema}
    config = make(student={"model": RESNET}, inherit={"method": "none"}, optim=optim)
    result = distill(config, tmp_path / "run", observer=watcher)
    assert result.skipped_steps == 1
    assert [event["step"] for event in events_of(tmp_path / "run", "skipped")] == [skipped]
    student = load_clip(str(result.student)).model
    assert all(value.isfinite().all() for value in student.state_dict().values())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in student.modules()) > 10
