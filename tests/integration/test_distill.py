"""Distillation from the first step to the last: what it leaves, learns and refuses."""

from __future__ import annotations

import itertools
import json

import open_clip
import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import dump_config, load_config
from tinyclip_edge.errors import ConfigError, DataError, TinyClipError
from tinyclip_edge.models import load_clip
from tinyclip_edge.train import distill, read_events
from toy_runs import Watcher, losses


def test_a_run_leaves_what_the_design_says(make, tmp_path):
    config, out, watcher = make(run={"eval_every": 6}), tmp_path / "run", Watcher()
    result = distill(config, out, observer=watcher)
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "events.jsonl", "checkpoints", "student", "teacher_features.safetensors",
        "report", "best", ".lock",
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
    assert [report.step for report in watcher.reports] == list(range(1, 13))
    assert result.student == out / "student"
    assert set(result.evaluations) == {0, 6, 12}
    assert {"t2i_r1", "t2i_r5", "i2t_r1", "i2t_r5", "zero_shot_100"} <= set(result.evaluations[12])


def test_runs_share_what_the_teacher_computed(make, tmp_path, silent, no_report):
    config = make(data={"feature_cache": str(tmp_path / "shared")})
    distill(config, tmp_path / "first")
    shared = tmp_path / "shared"
    assert {path.name for path in shared.iterdir()} == {"features.json", "parts"}

    silent()
    watcher = Watcher()
    distill(config, tmp_path / "second", observer=watcher)
    assert losses(tmp_path / "second") == pytest.approx(losses(tmp_path / "first"), rel=1e-5)
    assert any(f"teacher features read from {shared}" in line for line in watcher.messages)


def test_a_shared_folder_that_cannot_be_written_is_reported_before_the_first_step(make, tmp_path):
    (tmp_path / "file").write_text("in the way")
    config = make(data={"feature_cache": str(tmp_path / "file" / "shared")})
    with pytest.raises(DataError, match=r"shared cannot be written .*data\.feature_cache to"):
        distill(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_student_opens_with_open_clip_and_is_the_last_checkpoint(make, tmp_path, no_report):
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


@pytest.mark.slow
def test_the_gap_to_the_teacher_closes_and_inheritance_closes_it_sooner(
    make, tmp_path, learnt_teacher, no_report
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


def test_skipped_images_are_reported(make, tmp_path, no_report):
    samples = toy_samples((32, 36, 40))
    samples[11][1]["png"] = b"nothing"
    path = write_shard(tmp_path / "a.tar", samples)
    watcher = Watcher()
    config = make(data={"train": str(path), "val": None}, optim={"steps": 2})
    result = distill(config, tmp_path / "run", observer=watcher)
    assert any(f"skipped 1 of 144 images that cannot be decoded: {samples[11][0]}" in m
               for m in watcher.messages)  # fmt: skip
    assert result.evaluations == {}


def test_runs_are_repeatable_and_differ_by_seed(make, tmp_path, no_report):
    config = make(optim={"steps": 4}, inherit={"method": "none"}, run={"save_every": 0})
    for name in ("a", "b"):
        distill(config, tmp_path / name)
    distill(config.model_copy(update={"seed": 5}), tmp_path / "c")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a")[1] != pytest.approx(losses(tmp_path / "c")[1], abs=1e-4)
    assert "seed: 0" in dump_config(config)


@pytest.mark.slow
def test_bf16_follows_fp32(make, tmp_path, no_report):
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
    ("run", "message"),
    [
        ({"device": "cuda"}, "torch sees no CUDA device; set run.device=cpu"),
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
    ],
)
def test_a_device_that_is_not_there(make, tmp_path, monkeypatch, run, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        distill(make(run=run), tmp_path / "run")
