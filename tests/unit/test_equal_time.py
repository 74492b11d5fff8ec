"""The benchmarks at equal time and of the shipped recipes compare like with like."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest
import torch

import equal_time
import shipped_runs
from plain_loop import PlainLoop
from tinyclip_edge.config import load_config
from tinyclip_edge.data import PairMemory, open_source
from tinyclip_edge.models import create_student, load_clip
from tinyclip_edge.train.tasks.encoders import pixel_codec


@pytest.fixture(scope="module")
def teacher():
    return load_clip("starter-teacher")


def test_arms_differ_in_losses_and_learning_rate_alone():
    arguments = Namespace(steps=4, val="starter:val")
    shipped, affinity = (equal_time.configured(arguments, arm, 0) for arm in equal_time.ARMS)
    rate = affinity.optim.model_copy(update={"lr": shipped.optim.lr})
    assert shipped == affinity.model_copy(update={"loss": shipped.loss, "optim": rate})
    assert (shipped.optim.lr, affinity.optim.lr) == (2e-3, 1e-3)
    assert shipped.loss == load_config("starter").loss
    weights = (affinity.loss.affinity, affinity.loss.feature, affinity.loss.contrastive)
    assert weights == (1.0, 0.0, 0.0)
    assert shipped.data.feature_cache is None  # the teacher's time is the run's own


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The benchmark on the validation pairs, eight a batch, with its folder."""
    configured = equal_time.configured

    def with_few(arguments, arm, seed):
        config = configured(arguments, arm, seed)
        data = config.data.model_copy(update={"train": "starter:val"})
        optim = config.optim.model_copy(update={"batch_size": 8})
        return config.model_copy(update={"data": data, "optim": optim})

    monkeypatch.setattr(equal_time, "configured", with_few)
    monkeypatch.setattr(equal_time, "TRIAL", 1)
    monkeypatch.setattr(equal_time, "seconds_of_step", lambda loop, batches: 1e3)
    return Namespace(steps=4, val="starter:val", work=tmp_path)


def test_the_plain_loop_trains_for_its_time_and_is_kept(small):
    record = equal_time.train_plain(small, 0, 3.5e3)  # 3 steps of a thousand seconds fit
    assert record["steps"] == 3
    assert set(record["curve"]["3"]) >= {"r1", "r5"}
    assert load_clip(str(small.work / "plain-seed0")).model is not None
    assert equal_time.train_plain(small, 0, 9e9) == json.loads(json.dumps(record))


def test_the_plain_loop_takes_the_rate_of_its_step(teacher):
    codec = pixel_codec(teacher)
    pairs = PairMemory.load(open_source("starter:val"), codec, limit=16)
    with torch.random.fork_rng():
        student = create_student("starter-15", teacher)
    optim = load_config("starter").optim
    loop = PlainLoop(teacher, student, codec, optim, device="cpu")
    batches = pairs.batches(0, 4, seed=0)
    before = [p.detach().clone() for p in student.model.parameters()]
    loop.step(next(batches), lr=0.0)
    assert all(map(torch.equal, before, student.model.parameters()))
    loop.step(next(batches), lr=1e-3)
    assert not all(map(torch.equal, before, student.model.parameters()))


def test_precisions_of_the_shipped_run_differ_in_nothing_else():
    fp32, bf16 = (
        load_config(*shipped_runs.RUNS[name]) for name in ("starter, fp32", "starter, bf16")
    )
    assert (fp32.run.precision, bf16.run.precision) == ("fp32", "bf16")
    assert fp32 == bf16.model_copy(update={"run": fp32.run})


@pytest.mark.parametrize(
    ("flags", "left_out"), [({"avx2"}, {"starter, bf16"}), ({"avx2", "avx512_bf16"}, set())]
)
def test_bf16_is_left_out_without_its_instructions(flags, left_out, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.runtime.cpu.cpu_flags", lambda: frozenset(flags))
    assert shipped_runs.RUNS.keys() - set(shipped_runs.default_runs()) == left_out


def test_a_shipped_recipe_is_trained_with_its_own_steps(tmp_path, monkeypatch):
    configs = []

    def kept(config, folder, about):
        configs.append(config)
        return {**about, "steps": config.optim.steps, "seconds": 1.0, "encoder_parameters": 7}

    recalls = {"t2i_r1": 47.5, "i2t_r1": 40.0, "stderr": 1.3}
    monkeypatch.setattr(shipped_runs, "cached_run", kept)
    monkeypatch.setattr(shipped_runs, "teacher_hash", lambda: "0123abcd")
    monkeypatch.setattr(shipped_runs, "finished_student", lambda work, run: work)
    monkeypatch.setattr(shipped_runs, "evaluated", lambda model: recalls)
    records = [shipped_runs.train(Namespace(work=tmp_path), "starter-15", seed) for seed in (0, 1)]
    assert [config.seed for config in configs] == [0, 1]
    assert {config.optim.steps for config in configs} == {load_config("starter-15").optim.steps}
    row = shipped_runs.row(records)
    assert (row["steps"], row["t2i_r1"]) == (3000, [47.5, 47.5])
