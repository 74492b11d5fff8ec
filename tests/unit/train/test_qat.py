"""Finishing for int8: the rounded student comes nearer to its teacher, or nothing changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.models import create_student, load_clip, weights_hash
from tinyclip_edge.train.qat import finetune
from tinyclip_edge.train.qat.fake_quant import Rounding
from tinyclip_edge.train.qat.finetune import Finishing, finish_quantized, score
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


def config(pairs: str, **sections) -> RunConfig:
    made = {
        "teacher": {"model": "toy"},
        "student": {"model": "toy"},
        "data": {"train": pairs, "val": pairs, "workers": 1},
        "optim": {"lr": 1e-2, "batch_size": 16},
        "run": {"device": "cpu"},
    }
    return RunConfig.model_validate({**made, **sections})


def test_the_rounded_student_comes_nearer_to_the_teacher(pairs, teacher, student):
    watcher = Watcher()
    before = weights_hash(student.model)
    found = finish_quantized(
        student, None, config(pairs), Finishing(25, 1e-3, COARSE, COARSE), observer=watcher
    )
    kl = [report.values["kl"] for report in watcher.reports]
    assert len(kl) == 25
    assert np.mean(kl[-8:]) < 0.6 * np.mean(kl[:3])  # the first warm-up steps stand for "before"
    assert weights_hash(student.model) == before  # the teacher, and what is gone back to
    assert [step for step, _, _ in watcher.evals] == [0, 25]
    assert watcher.evals[0][2] == found.before
    assert watcher.evals[1][2] == found.after
    assert not found.clip.model.training


def test_the_same_seed_gives_the_same_student(pairs, teacher, student):
    def finished(seed):
        made = config(pairs, seed=seed)
        watcher = Watcher()
        finish_quantized(student, teacher, made, Finishing(3), observer=watcher)
        return [report.values["loss"] for report in watcher.reports]

    assert finished(0) == finished(0)
    assert finished(0) != finished(1)


@pytest.mark.parametrize("better", [True, False])
def test_a_finish_that_makes_it_worse_gives_the_given_weights_back(
    pairs, student, monkeypatch, better
):
    shares = iter([0.5, 0.6 if better else 0.4])
    monkeypatch.setattr(
        finetune.Validation, "measure", lambda *_: dict.fromkeys(("t2i_r1", "i2t_r1"), next(shares))
    )
    watcher = Watcher()
    found = finish_quantized(student, None, config(pairs), Finishing(2), observer=watcher)
    assert found.helped is better
    same = weights_hash(found.clip.model) == weights_hash(student.model)
    assert same is not better
    assert ("worse, so the weights stay as they were" in watcher.messages[-1]) is not better
    told = found.as_dict()
    assert told["kept"] is better
    assert (told["recall@1_before"], told["recall@1_after"]) == (50.0, 60.0 if better else 40.0)
    assert told["steps"] == 2
    assert told["lr"] == pytest.approx(1e-3)  # a tenth of the configuration's


def test_a_float_tower_stays_as_it_is(pairs, student):
    found = finish_quantized(student, None, config(pairs), Finishing(2, image=None))
    changed = {
        name.startswith("visual.")
        for name, weight in student.model.state_dict().items()
        if not torch.equal(weight, found.clip.model.state_dict()[name])
    }
    assert not found.helped or changed == {False}


def test_a_learnt_scale_goes_on_and_features_are_mimicked(pairs, teacher, student):
    loss = {"affinity": 0, "contrastive": 1.0, "feature": 10.0, "student_logit_scale": "learned"}
    with torch.no_grad():
        student.model.logit_scale.fill_(np.log(30.0))
    watcher = Watcher()
    made = config(pairs, loss=loss)
    finish_quantized(student, teacher, made, Finishing(1, 1e-6), observer=watcher)
    values = watcher.reports[0].values
    assert values["student_scale"] == pytest.approx(30.0, rel=1e-4)
    assert {"affinity", "feature", "contrastive"} <= set(values)


def test_a_narrower_student_leaves_features_out(pairs, teacher):
    small = create_student({**STUDENT, "embed_dim": 32}, teacher)
    watcher = Watcher()
    made = config(pairs, loss={"feature": 10.0})
    finish_quantized(small, teacher, made, Finishing(1), observer=watcher)
    assert "feature" not in watcher.reports[0].values
    assert watcher.reports[0].values["kl"] > 0


def test_wrong_requests_end_in_one_line(pairs, student):
    with pytest.raises(ConfigError, match="1 step or more, not 0"):
        Finishing(0)
    with pytest.raises(ConfigError, match="learning rate nan must be above 0"):
        Finishing(1, float("nan"))
    blind = config(pairs, data={"train": pairs})
    with pytest.raises(ConfigError, match=r"needs validation pairs.*data\.val"):
        finish_quantized(student, None, blind, Finishing(1))
    absent = config(pairs, data={"train": "absent.tar", "val": pairs})
    with pytest.raises(DataError, match=r"absent\.tar"):
        finish_quantized(student, None, absent, Finishing(1))


def test_validation_is_of_the_rounded_student(pairs, student):
    """Rounding to 4 bits changes what is found before the first step."""
    fine = finish_quantized(student, None, config(pairs), Finishing(1, 1e-9, None, None))
    coarse = finish_quantized(student, None, config(pairs), Finishing(1, 1e-9, COARSE, COARSE))
    assert fine.before != coarse.before
    assert score(fine.before) == pytest.approx(score(replace(fine).after))
