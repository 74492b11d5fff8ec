"""The moving average of a student's weights by hand, through runs, kills and stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig
from tinyclip_edge.models import create_student, load_clip
from tinyclip_edge.train import distill
from tinyclip_edge.train.averaging import AveragedStudent
from tinyclip_edge.train.tasks.encoders import PairEncoder
from tinyclip_edge.train.tasks.validation import Validation
from toy_runs import STUDENT, KilledError, Watcher, events_of, kill, losses

pytestmark = pytest.mark.usefixtures("no_report")

RESNET = {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16}}


def test_the_average_by_hand(toy_teacher):
    student = create_student({}, toy_teacher)
    scale = student.model.logit_scale

    def set_scale(value):
        with torch.no_grad():
            scale.fill_(value)

    set_scale(1.0)
    averaged = AveragedStudent.of(student, 0.2)
    assert averaged.clip.model.logit_scale.item() == 1.0
    expected = 1.0
    # (1 + t) / (10 + t) is 2/11, then 3/12, above 0.2 from then on.
    for value, decay in ((3.0, 2 / 11), (2.0, 0.2), (5.0, 0.2)):
        set_scale(value)
        averaged.update(student)
        expected = decay * expected + (1 - decay) * value
        assert averaged.clip.model.logit_scale.item() == pytest.approx(expected, rel=1e-6)
    assert scale.item() == 5.0
    assert not any(p.requires_grad for p in averaged.average.parameters())


def test_statistics_of_batch_norms_are_the_last(toy_teacher):
    student = create_student({**RESNET, "embed_dim": 64}, toy_teacher)
    averaged = AveragedStudent.of(student, 0.9)
    names = [name for name, _ in student.model.named_buffers() if name.endswith("running_mean")]
    assert names
    student.model.get_buffer(names[0]).fill_(4.0)
    averaged.update(student)
    assert averaged.clip.model.get_buffer(names[0]).eq(4.0).all()


@pytest.fixture
def make(tmp_path, toy_teacher_folder):
    shard = str(write_shard(tmp_path / "train.tar", toy_samples()))

    def config(**sections):
        return RunConfig.model_validate(
            {
                "teacher": {"model": str(toy_teacher_folder)},
                "student": {"model": STUDENT},
                "data": {"train": shard, "val": shard, "workers": 1},
                "run": {"device": "cpu", "log_every": 1, "eval_every": 2, "save_every": 2},
                **sections,
                "optim": {"steps": 5, "batch_size": 24, "lr": 1e-2, "warmup": 0.0, "ema": 0.5,
                          **sections.get("optim", {})},
            }
        )  # fmt: skip

    return config


@pytest.fixture
def weights(monkeypatch):
    """The weights after each step, and before the first."""
    observed = []
    update, begin = AveragedStudent.update, AveragedStudent.of.__func__

    def state(student):
        return {k: t.detach().double().numpy() for k, t in student.model.state_dict().items()}

    def noted(averaged, student):
        observed.append(state(student))
        update(averaged, student)

    def begun(cls, student, decay):
        observed.append(state(student))
        return begin(cls, student, decay)

    monkeypatch.setattr(AveragedStudent, "update", noted)
    monkeypatch.setattr(AveragedStudent, "of", classmethod(begun))
    return observed


def test_a_run_evaluates_and_keeps_the_average(make, weights, tmp_path, monkeypatch):
    watcher, measure = Watcher(), Validation.measure

    def noted(validation, *arguments):
        watcher.validation = validation
        return measure(validation, *arguments)

    monkeypatch.setattr(Validation, "measure", noted)
    distill(make(), tmp_path / "run", observer=watcher)
    assert len(weights) == 6
    student = load_clip(str(tmp_path / "run" / "student")).model.state_dict()
    for key, value in student.items():
        expected = weights[0][key]
        for number, step in enumerate(weights[1:], 1):
            decay = min(0.5, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * step[key]
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-6)
    last = tmp_path / "run" / "checkpoints" / "00000005"
    raw = load_file(last / "student.safetensors")
    key = "visual.conv1.weight"
    assert np.array_equal(raw[key].double().numpy(), weights[-1][key])
    assert not torch.equal(raw[key], student[key])
    last_metrics = [
        metrics for step, who, metrics in watcher.evals if (step, who) == (5, "student")
    ]
    clip = load_clip(str(tmp_path / "run" / "student"))
    assert watcher.validation.measure(PairEncoder(clip), clip) == last_metrics[0]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_average_to_the_bit(make, tmp_path):
    uninterrupted, cut = tmp_path / "whole", tmp_path / "cut"
    distill(make(), uninterrupted)
    with pytest.raises(KilledError):
        distill(make(), cut, observer=Watcher(3, kill))
    distill(make(), cut, resume=True)
    assert losses(uninterrupted) == losses(cut)
    one, other = (
        load_file(f / "student" / "open_clip_model.safetensors") for f in (uninterrupted, cut)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    states = [
        torch.load(f / "checkpoints" / "00000005" / "state.pt", weights_only=True)["beside"]
        for f in (uninterrupted, cut)
    ]
    assert any(key.startswith("ema.") for key in states[0])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    evals = [events_of(folder, "eval") for folder in (uninterrupted, cut)]
    assert evals[0] == evals[1]


def test_the_next_stage_is_cut_out_of_the_average(make, weights, tmp_path):
    stages = [{"student": STUDENT, "steps": 2}, {"student": STUDENT, "steps": 2}]
    distill(make(student={}, stages=stages), tmp_path / "run")
    first = load_clip(str(tmp_path / "run" / "stages" / "1" / "student")).model.state_dict()
    key = "visual.conv1.weight"
    assert np.array_equal(weights[3][key], first[key].double().numpy())  # begin of stage 2
    assert not np.array_equal(weights[2][key], first[key].double().numpy())
