"""Finishing for int8: the rounded student comes nearer to its teacher, or nothing changes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig
from tinyclip_edge.errors import ConfigError, DataError, InterruptedRun
from tinyclip_edge.models import create_student, load_clip, weights_hash
from tinyclip_edge.train.qat.fake_quant import Rounding
from tinyclip_edge.train.qat.finetune import Finishing, finish_quantized, score
from tinyclip_edge.train.tasks.validation import Validation
from toy_runs import STUDENT, Watcher

COARSE = Rounding("4 bit", "4 bit")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    return str(write_shard(tmp_path_factory.mktemp("pairs") / "toy.tar", toy_samples((32, 40))))


@pytest.fixture(scope="module")
def teacher(toy_teacher_folder):
    return load_clip(str(toy_teacher_folder))


@pytest.fixture
def student(teacher):
    """A student whose matrices have outliers, so that rounding them to 4 bits costs much."""
    torch.manual_seed(0)
    clip = create_student({}, teacher)
    clip.model.load_state_dict(teacher.model.state_dict())
    with torch.no_grad():
        for name, weight in clip.model.named_parameters():
            if weight.ndim == 2 and "positional" not in name:
                weight[::5, ::7] *= 4.0
    clip.model.requires_grad_(False).eval()
    return clip


@pytest.fixture
def finish(tmp_path):
    """finish_quantized in a new folder."""
    count = iter(range(9))

    def run(*arguments, **options):
        return finish_quantized(*arguments, folder=tmp_path / f"{next(count)}.qat", **options)

    return run


def config(pairs: str, **sections) -> RunConfig:
    values = {
        "teacher": {"model": "toy"},
        "student": {"model": "toy"},
        "data": {"train": pairs, "val": pairs, "workers": 1},
        "optim": {"lr": 1e-2, "batch_size": 16},
        "run": {"device": "cpu"},
    }
    return RunConfig.model_validate({**values, **sections})


def test_the_rounded_student_comes_nearer_to_the_teacher(pairs, teacher, student, finish):
    watcher = Watcher()
    before = weights_hash(student.model)
    result = finish(
        student, None, config(pairs), Finishing(25, 1e-3, COARSE, COARSE), observer=watcher
    )
    kl = [report.values["kl"] for report in watcher.reports]
    assert len(kl) == 25
    assert np.mean(kl[-8:]) < 0.6 * np.mean(kl[:3])  # the first warm-up steps stand for "before"
    assert weights_hash(student.model) == before  # the teacher, and what is gone back to
    assert [step for step, _, _ in watcher.evals] == [0, 25]
    assert watcher.evals[0][2] == result.before
    assert watcher.evals[1][2] == result.after
    assert not result.clip.model.training


@pytest.mark.slow
def test_the_same_seed_gives_the_same_student(pairs, teacher, student, finish):
    def finished(seed):
        settings = config(pairs, seed=seed)
        watcher = Watcher()
        finish(student, teacher, settings, Finishing(3), observer=watcher)
        return [report.values["loss"] for report in watcher.reports]

    assert finished(0) == finished(0)
    assert finished(0) != finished(1)


@pytest.mark.parametrize("better", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_finish_that_makes_it_worse_gives_the_original_weights_back(
    pairs, student, monkeypatch, better, finish
):
    shares = iter([0.5, 0.6 if better else 0.4])
    monkeypatch.setattr(
        Validation, "measure", lambda *_: dict.fromkeys(("t2i_r1", "i2t_r1"), next(shares))
    )
    watcher = Watcher()
    result = finish(student, None, config(pairs), Finishing(2), observer=watcher)
    assert result.helped is better
    same = weights_hash(result.clip.model) == weights_hash(student.model)
    assert same is not better
    assert ("worse, so the weights stay as they were" in watcher.messages[-1]) is not better
    report = result.as_dict()
    assert report["kept"] is better
    assert (report["recall@1_before"], report["recall@1_after"]) == (50.0, 60.0 if better else 40.0)
    assert report["steps"] == 2
    assert report["lr"] == pytest.approx(1e-3)  # a tenth of the configuration's


@pytest.mark.slow
def test_a_float_tower_stays_as_it_is(pairs, student, finish):
    result = finish(student, None, config(pairs), Finishing(2, image=None))
    changed = {
        name.startswith("visual.")
        for name, weight in student.model.state_dict().items()
        if not torch.equal(weight, result.clip.model.state_dict()[name])
    }
    assert not result.helped or changed == {False}


@pytest.mark.slow
def test_a_learnt_scale_goes_on_and_features_are_mimicked(pairs, teacher, student, finish):
    loss = {"affinity": 0, "contrastive": 1.0, "feature": 10.0, "student_logit_scale": "learned"}
    with torch.no_grad():
        student.model.logit_scale.fill_(np.log(30.0))
    watcher = Watcher()
    settings = config(pairs, loss=loss)
    finish(student, teacher, settings, Finishing(1, 1e-6), observer=watcher)
    values = watcher.reports[0].values
    assert values["student_scale"] == pytest.approx(30.0, rel=1e-4)
    assert {"affinity", "feature", "contrastive"} <= set(values)


def test_a_narrower_student_leaves_features_out(pairs, teacher, finish):
    small = create_student({**STUDENT, "embed_dim": 32}, teacher)
    watcher = Watcher()
    settings = config(pairs, loss={"feature": 10.0})
    finish(small, teacher, settings, Finishing(1), observer=watcher)
    assert "feature" not in watcher.reports[0].values
    assert watcher.reports[0].values["kl"] > 0


def test_wrong_requests_end_in_one_line(pairs, student, finish):
    with pytest.raises(ConfigError, match="1 step or more, not 0"):
        Finishing(0)
    with pytest.raises(ConfigError, match="learning rate nan must be above 0"):
        Finishing(1, float("nan"))
    blind = config(pairs, data={"train": pairs})
    with pytest.raises(ConfigError, match=r"needs validation pairs.*data\.val"):
        finish(student, None, blind, Finishing(1))
    absent = config(pairs, data={"train": "absent.tar", "val": pairs})
    with pytest.raises(DataError, match=r"absent\.tar"):
        finish(student, None, absent, Finishing(1))


def test_validation_is_of_the_rounded_student(pairs, student, finish):
    """Rounding to 4 bits changes what is found before the first step."""
    fine = finish(student, None, config(pairs), Finishing(1, 1e-9, None, None))
    coarse = finish(student, None, config(pairs), Finishing(1, 1e-9, COARSE, COARSE))
    assert fine.before != coarse.before
    assert score(fine.before) == pytest.approx(score(replace(fine).after))


@pytest.mark.parametrize("kind", ["in memory", "streamed"])
@pytest.mark.slow
def test_an_interrupted_finish_goes_on_to_the_same_curve(pairs, student, tmp_path, kind):
    data = {"train": pairs, "val": pairs, "workers": 1}
    if kind == "streamed":
        data["memory_gb"] = 0.0
    loss = {"student_logit_scale": "learned", "contrastive": 0.5}
    run = config(pairs, data=data, loss=loss, run={"device": "cpu", "micro_batch": 8})
    finishing = Finishing(7, 1e-3)

    def finished(folder, observer):
        return finish_quantized(student, None, run, finishing, folder=folder, observer=observer)

    uninterrupted = Watcher()
    expected = finished(tmp_path / "whole", uninterrupted)
    cut = Watcher(4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(
        InterruptedRun, match=r"stopped after step 4.*continue with: the same"
    ) as stop:
        finished(tmp_path / "cut", cut)
    assert stop.value.exit_code == 130
    assert sorted(path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()) == [
        "00000000",
        "00000004",
    ]
    resumed = Watcher()
    result = finished(tmp_path / "cut", resumed)
    assert [report.step for report in cut.reports] == [1, 2, 3, 4]
    assert [report.step for report in resumed.reports] == [5, 6, 7]
    for before, after in zip(uninterrupted.reports, [*cut.reports, *resumed.reports], strict=True):
        assert after.values == pytest.approx(before.values, abs=1e-6)
        assert after.lr == before.lr
    assert weights_hash(result.clip.model) == weights_hash(expected.clip.model)
    assert (result.before, result.after) == (expected.before, expected.after)
    # Once more: the checkpoint of the last step has the result.
    again = Watcher()
    assert weights_hash(finished(tmp_path / "cut", again).clip.model) == weights_hash(
        expected.clip.model
    )
    assert again.reports == []


def test_a_folder_of_another_finish_is_refused(pairs, student, teacher, tmp_path):
    folder = tmp_path / "x.qat"
    run = config(pairs)
    finish_quantized(student, None, run, Finishing(1), folder=folder)
    for other, changed in ((Finishing(2), "steps"), (Finishing(1, 1e-3, COARSE), "lr and image")):
        with pytest.raises(ConfigError, match=rf"another {changed}; repeat .* or delete"):
            finish_quantized(student, None, run, other, folder=folder)
    with pytest.raises(ConfigError, match="another student"):
        finish_quantized(teacher, None, run, Finishing(1), folder=folder)


def test_a_finish_that_cannot_begin_leaves_no_folder(pairs, student, tmp_path):
    folder = tmp_path / "bundles" / "x.qat"
    absent = config(pairs, data={"train": "absent.tar", "val": pairs})
    with pytest.raises(DataError, match=r"absent\.tar"):
        finish_quantized(student, None, absent, Finishing(1), folder=folder)
    assert list(tmp_path.iterdir()) == []
    finish_quantized(student, None, config(pairs), Finishing(1), folder=folder)
    assert (folder / "checkpoints" / "00000001").is_dir()
