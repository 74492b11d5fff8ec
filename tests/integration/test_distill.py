"""Distillation from the first step to the last: what it leaves, learns and survives."""

from __future__ import annotations

import itertools
import json
import os
import signal

import open_clip
import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig, dump_config, load_config
from tinyclip_edge.errors import ConfigError, DataError, InterruptedRun, TinyClipError
from tinyclip_edge.models import load_clip, weights_hash
from tinyclip_edge.train import distill, read_events

STUDENT = {
    "vision_cfg": {"width": 64, "layers": 3},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2},
}


class Watcher:
    """Observer that keeps what it was told, and may act on a step."""

    def __init__(self, at_step=None, act=None):
        self.messages, self.reports, self.evals = [], [], []
        self._at, self._act = at_step, act

    def on_step(self, report):
        self.reports.append(report)
        if report.step == self._at:
            self._act()

    def on_eval(self, step, who, metrics):
        self.evals.append((step, who, metrics))

    def on_message(self, text):
        self.messages.append(text)


class KilledError(Exception):
    """Stands for kill -9: nothing of the run's own code is run after it."""


def kill():
    raise KilledError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    samples = toy_samples((32, 40))
    write_shard(folder / "train-0.tar.gz", samples[:50])
    write_shard(folder / "train-1.tar", samples[50:])
    write_shard(folder / "val.tar", toy_samples((48,)))
    return folder


@pytest.fixture
def make(shards, toy_teacher_folder):
    def config(**sections):
        base = {
            "name": "toy",
            "teacher": {"model": str(toy_teacher_folder)},
            "student": {"model": STUDENT},
            "loss": {"teacher_logit_scale": 100.0},
            "data": {"train": str(shards / "train-*.tar*"), "val": str(shards / "val.tar")},
            "optim": {"lr": 1e-3, "batch_size": 16, "steps": 12},
            "run": {"device": "cpu", "log_every": 1, "save_every": 4},
        }
        for name, values in sections.items():
            base[name] = {**base[name], **values} if name in base else values
        return RunConfig.model_validate(base)

    return config


def losses(folder):
    steps = [e for e in read_events(folder / "events.jsonl") if e["kind"] == "step"]
    return {e["step"]: e["loss"] for e in steps}


def test_a_run_leaves_what_the_design_says(make, tmp_path):
    config, out, seen = make(run={"eval_every": 6}), tmp_path / "run", Watcher()
    result = distill(config, out, observer=seen)
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "events.jsonl", "checkpoints", "student", "teacher_features.safetensors",
    }  # fmt: skip
    assert load_config(out / "config.yaml") == config
    assert [p.name for p in sorted((out / "checkpoints").iterdir())] == ["00000008", "00000012"]
    events = read_events(out / "events.jsonl")
    kinds = [event["kind"] for event in events]
    assert (kinds[0], kinds[-1]) == ("run_start", "run_end")
    assert kinds.count("step") == 12
    assert [(e["step"], e["who"]) for e in events if e["kind"] == "eval"] == [
        (0, "teacher"), (0, "student"), (6, "student"), (12, "student"),
    ]  # fmt: skip
    step = next(event for event in events if event["kind"] == "step")
    assert {"step", "loss", "affinity", "kl", "teacher_entropy", "lr", "samples_per_s",
            "data_wait", "grad_norm"} <= set(step)  # fmt: skip
    assert step["loss"] == pytest.approx(step["kl"] + step["teacher_entropy"], abs=1e-5)
    assert [report.step for report in seen.reports] == list(range(1, 13))
    assert result.student == out / "student"
    assert set(result.evaluations) == {0, 6, 12}
    assert {"t2i_r1", "t2i_r5", "i2t_r1", "i2t_r5", "zero_shot_100"} <= set(result.evaluations[12])


def test_the_student_opens_with_open_clip_and_is_the_last_checkpoint(make, tmp_path):
    distill(make(), tmp_path / "run")
    folder = tmp_path / "run" / "student"
    clip = load_clip(str(tmp_path / "run"))
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    pixels, tokens = torch.randn(2, 3, 32, 32), clip.tokenizer(["cat", "a dog"])
    with torch.no_grad():
        assert torch.allclose(
            model.encode_image(pixels), clip.model.encode_image(pixels), atol=1e-6
        )
        assert torch.allclose(model.encode_text(tokens), clip.model.encode_text(tokens), atol=1e-6)
    about = json.loads((folder / "open_clip_config.json").read_text())
    assert about["preprocess_cfg"]["mean"] == [0.5, 0.5, 0.5]  # the teacher's
    assert clip.logit_scale == pytest.approx(100.0, rel=1e-5)


@pytest.fixture
def learnt_teacher(make, tmp_path):
    """A toy teacher that has learnt the shapes: the same loop, contrastive loss, random weights."""
    config = make(
        student={"model": {}},
        inherit={"method": "none"},
        loss={"affinity": 0.0, "contrastive": 1.0, "student_logit_scale": 20.0},
        optim={"steps": 80, "batch_size": 24},
        run={"save_every": 0},
    )
    result = distill(config, tmp_path / "learnt-teacher")
    assert result.evaluations[80]["t2i_r1"] > 0.4  # chance is 1 of 48
    return result.student


def test_the_gap_to_the_teacher_closes_and_inheritance_closes_it_sooner(
    make, tmp_path, learnt_teacher
):
    late = {}
    for method, seed in itertools.product(("uniform", "none"), (0, 1)):
        out = tmp_path / f"{method}-{seed}"
        config = make(
            seed=seed,
            teacher={"model": str(learnt_teacher)},
            inherit={"method": method},
            loss={"teacher_logit_scale": None},
            optim={"steps": 30, "batch_size": 24},
            run={"save_every": 0},
        )
        distill(config, out)
        kl = [e["kl"] for e in read_events(out / "events.jsonl") if e["kind"] == "step"]
        late[method, seed] = sum(kl[-10:])
        assert sum(kl[-5:]) < 0.8 * sum(kl[:5])
    for seed in (0, 1):
        assert late["uniform", seed] < 0.6 * late["none", seed]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(make, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distill(make(), whole)
    with pytest.raises(KilledError):
        distill(make(), cut, observer=Watcher(7, kill))
    assert not (cut / "student").exists()
    before = losses(cut)
    assert max(before) == 7
    result = distill(make(), cut, resume=True)
    expected, got = losses(whole), losses(cut)
    assert list(got) == list(expected)
    assert all(got[step] == pytest.approx(expected[step], abs=1e-6) for step in expected)
    assert weights_hash(load_clip(str(cut)).model) == weights_hash(load_clip(str(whole)).model)
    assert result.steps == 12


@pytest.mark.parametrize("kind", ["streamed", "live teacher", "learnt scale"])
def test_other_ways_to_run_resume_exactly_too(make, tmp_path, kind):
    sections = {
        "streamed": {"data": {"memory_gb": 0.0}},
        "live teacher": {"data": {"cache_teacher": False}},
        "learnt scale": {"loss": {"student_logit_scale": "learned", "contrastive": 0.5}},
    }[kind]
    config = make(**sections, optim={"steps": 8}, run={"save_every": 3})
    distill(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        distill(config, tmp_path / "cut", observer=Watcher(5, kill))
    distill(config, tmp_path / "cut", resume=True)
    expected, got = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert all(got[step] == pytest.approx(expected[step], abs=1e-6) for step in expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_that_step(make, tmp_path, number):
    out = tmp_path / "run"
    watcher = Watcher(6, lambda: os.kill(os.getpid(), number))
    with pytest.raises(InterruptedRun) as caught:
        distill(make(), out, observer=watcher)
    assert caught.value.exit_code == 130
    assert f"tinyclip-edge distill --resume {out}" in str(caught.value)
    assert (out / "checkpoints" / "00000006" / "checkpoint.json").is_file()
    assert read_events(out / "events.jsonl")[-1]["status"] == "interrupted"
    again = Watcher()
    distill(make(), out, resume=True, observer=again)
    assert [report.step for report in again.reports] == list(range(7, 13))


def test_a_broken_newest_checkpoint_is_named_and_the_one_before_taken(make, tmp_path):
    out = tmp_path / "run"
    distill(make(), out)
    expected = losses(out)
    (out / "checkpoints" / "00000012" / "state.pt").write_bytes(b"broken")
    seen = Watcher()
    distill(make(), out, resume=True, observer=seen)
    assert any("00000012 is broken" in message for message in seen.messages)
    assert [report.step for report in seen.reports] == [9, 10, 11, 12]
    assert losses(out) == pytest.approx(expected, abs=1e-6)


def test_resuming_with_other_data_or_another_teacher_is_refused(make, tmp_path, shards):
    moved = tmp_path / "moved"
    for shard in shards.glob("train-*"):
        (moved / shard.name).parent.mkdir(exist_ok=True)
        (moved / shard.name).write_bytes(shard.read_bytes())
    config = make(data={"train": str(moved / "train-*.tar*")}, optim={"steps": 2})
    distill(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"must not change: optim\.batch_size"):
        distill(
            config.model_copy(update={"optim": config.optim.model_copy(update={"batch_size": 8})}),
            tmp_path / "run",
            resume=True,
        )
    write_shard(moved / "train-1.tar", toy_samples((36,)))
    with pytest.raises(TinyClipError, match=r"pairs of data\.train are not those"):
        distill(config, tmp_path / "run", resume=True)


def test_bad_input_leaves_nothing_behind(make, tmp_path, shards):
    out = tmp_path / "run"
    for sections in (
        {"data": {"train": str(tmp_path / "none.tar")}},
        {"data": {"val": str(tmp_path / "none.tar")}},
        {"optim": {"batch_size": 64}},
        {"student": {"model": {"vision_cfg": {"width": 192}}}},
        {"student": {"model": "no-such-student"}},
        {"teacher": {"model": str(tmp_path / "none")}},
    ):
        with pytest.raises(TinyClipError) as caught:
            distill(make(**sections), out)
        assert "\n" not in str(caught.value)
        assert not out.exists()
    with pytest.raises(DataError, match="48 distinct concepts"):
        distill(make(optim={"batch_size": 64}), out)


def test_a_folder_in_use_is_not_touched(make, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TinyClipError, match="is not empty"):
        distill(make(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_skipped_images_are_told(make, tmp_path):
    samples = toy_samples((32, 36, 40))
    samples[11][1]["png"] = b"nothing"
    path = write_shard(tmp_path / "a.tar", samples)
    seen = Watcher()
    config = make(data={"train": str(path), "val": None}, optim={"steps": 2})
    result = distill(config, tmp_path / "run", observer=seen)
    assert any(f"skipped 1 of 144 images that cannot be decoded: {samples[11][0]}" in m
               for m in seen.messages)  # fmt: skip
    assert result.evaluations == {}


def test_runs_are_repeatable_and_differ_by_seed(make, tmp_path):
    config = make(optim={"steps": 4}, inherit={"method": "none"}, run={"save_every": 0})
    for name in ("a", "b"):
        distill(config, tmp_path / name)
    distill(config.model_copy(update={"seed": 5}), tmp_path / "c")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a")[1] != pytest.approx(losses(tmp_path / "c")[1], abs=1e-4)
    assert "seed: 0" in dump_config(config)


def test_bf16_follows_fp32(make, tmp_path):
    values = {}
    for precision in ("fp32", "bf16", "fp32"):  # and back: accelerate remembers its first choice
        out = tmp_path / f"{precision}-{len(values)}"
        config = make(optim={"steps": 6}, run={"precision": precision, "save_every": 0})
        distill(config, out)
        values[precision] = losses(out)
    # the loss starts near ln 16 = 2.8; bf16 keeps 8 bits
    assert values["bf16"] == pytest.approx(values["fp32"], abs=0.1)
    assert values["bf16"] != values["fp32"]


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"device": "cuda"}, "torch sees no CUDA device; set run.device=cpu"),
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
    ],
)
def test_a_device_that_is_not_there(make, tmp_path, monkeypatch, run, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=told):
        distill(make(run=run), tmp_path / "run")
