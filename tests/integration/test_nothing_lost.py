"""What a disk, a person or a second process does to a run folder is seen, named and made good."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import dump_config
from tinyclip_edge.errors import ConfigError, TinyClipError
from tinyclip_edge.models import load_clip, weights_hash
from tinyclip_edge.report import write_report
from tinyclip_edge.train import distill
from toy_runs import KilledError, Watcher, events_of, kill, losses

pytestmark = pytest.mark.usefixtures("no_report")

FEATURES = "teacher_features.safetensors"
# Captions of many lengths, so that what shares a batch decides how it is padded.
WORDS = ["a", "photo", "of", "the", "cat", "dog", "red", "blue", "square", "circle", "bicycle"]


@pytest.fixture(scope="module")
def uneven_captions(tmp_path_factory):
    """A shard whose captions have from one word to seven."""
    samples = toy_samples((32, 40))
    for number, (_, members) in enumerate(samples):
        members["txt"] = " ".join(WORDS[number % 5 : number % 5 + 1 + number % 7]).encode()
    return write_shard(tmp_path_factory.mktemp("long") / "long.tar", samples)


@pytest.fixture
def long(make, uneven_captions):
    """A run of more steps than its first epoch has, on captions of uneven length."""

    def config(**sections):
        run = sections.pop("run", {})
        data = {"train": str(uneven_captions), "batch_distinct": False, **sections.pop("data", {})}
        return make(data=data, optim={"steps": 14}, run={"save_every": 4, **run}, **sections)

    return config


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """The folder of a run, whole or killed at a step, made once: to be read or copied."""
    root, folders = tmp_path_factory.mktemp("runs"), {}

    def run(config, killed=None):
        key = config.model_dump_json(), killed
        if key not in folders:
            out = root / str(len(folders))
            if killed is None:
                distill(config, out)
            else:
                with pytest.raises(KilledError):
                    distill(config, out, observer=Watcher(killed, kill))
            folders[key] = out
        return folders[key]

    return run


def negate(path):
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    save_file({**tensors, "image_values": -tensors["image_values"]}, path, metadata=about)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


HARMS = {
    "negated": (negate, "have changed since they were written"),
    "cut": (cut, "are truncated or damaged"),
    "missing": (lambda path: path.unlink(), "are missing"),
}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("harm", "killed"),
    [
        ("negated", 10),
        slow("negated", 5),
        slow("cut", 5),
        slow("cut", 10),
        slow("missing", 5),
        slow("missing", 10),
    ],
)
def test_missing_teacher_features_are_computed_to_the_same_bits(
    long, run_of, tmp_path, harm, killed
):
    uninterrupted = run_of(long())
    out = shutil.copytree(run_of(long(), killed), tmp_path / "cut")
    spoil, warning = HARMS[harm]
    spoil(out / FEATURES)
    watcher = Watcher()
    distill(long(), out, resume=True, observer=watcher)
    assert any(
        f"teacher features {warning}: recomputed in the batches" in m for m in watcher.messages
    )
    assert losses(out) == losses(uninterrupted)
    assert (out / FEATURES).read_bytes() == (uninterrupted / FEATURES).read_bytes()
    assert weights_hash(load_clip(str(out)).model) == weights_hash(
        load_clip(str(uninterrupted)).model
    )


@pytest.mark.slow
def test_features_computed_with_another_micro_batch_are_reported_to_differ(long, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        distill(long(), out, observer=Watcher(6, kill))
    (out / FEATURES).unlink()
    watcher = Watcher()
    distill(long(run={"micro_batch": 8}), out, resume=True, observer=watcher)
    assert any("losses may differ by 2e-05" in message for message in watcher.messages)


def test_a_second_process_is_refused_in_one_line(make, tmp_path):
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(dump_config(make()))
    second = [sys.executable, "-m", "tinyclip_edge", "distill"]
    answers = []

    def start_others():
        for way in (["--resume", out], [config, "--out", out]):
            words = [*second, *map(str, way)]
            answers.append(subprocess.run(words, capture_output=True, text=True, check=False))

    distill(make(), out, observer=Watcher(5, start_others))
    message = (
        f"error: {out} is in use by process {os.getpid()}; wait until it ends, or choose another"
    )
    for answer in answers:
        assert answer.returncode == 2
        assert answer.stderr.splitlines() == [f"{message} name"]
    assert list(losses(out)) == list(range(1, 13))


@pytest.mark.parametrize(
    "line",
    [
        slow(b"5"),
        slow(b"{}"),
        b'{"kind":"step"}',
        slow(b"\xff"),
        slow(b'{"kind": "best", "step": 0}'),
    ],
)
def test_damaged_events_stop_neither_resume_nor_report(make, run_of, tmp_path, line):
    out = shutil.copytree(run_of(make(), 7), tmp_path / "run")
    path = out / "events.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:3], line, *lines[3:]]) + b"\n")
    assert write_report([out]).path.is_file()
    watcher = Watcher()
    distill(make(), out, resume=True, observer=watcher)
    if b"best" not in line:
        assert any(
            "1 damaged lines, the first at line 4" in message for message in watcher.messages
        )
    assert list(losses(out)) == list(range(1, 13))
    assert write_report([out]).path.is_file()


def test_a_run_killed_before_its_first_checkpoint_is_resumed(make, run_of, tmp_path):
    uninterrupted, out = run_of(make()), tmp_path / "cut"

    class Early(Watcher):
        def on_eval(self, step, who, metrics):
            raise KilledError

    with pytest.raises(KilledError):
        distill(make(), out, observer=Early())
    assert not (out / "checkpoints").exists()
    watcher = Watcher()
    distill(make(), out, resume=True, observer=watcher)
    assert any("starts at step 0" in message for message in watcher.messages)
    assert losses(out) == losses(uninterrupted)
    assert len(events_of(out, "eval")) == len(events_of(uninterrupted, "eval"))


def test_the_same_pairs_and_teacher_elsewhere_are_accepted(
    make, run_of, tmp_path, shards, toy_teacher_folder
):
    uninterrupted = run_of(make())
    out = shutil.copytree(run_of(make(), 7), tmp_path / "cut")
    moved = shutil.copytree(shards, tmp_path / "moved")
    shutil.copytree(toy_teacher_folder, tmp_path / "teacher")
    elsewhere = {"data": {"train": str(moved / "train-*.tar*")},
                 "teacher": {"model": str(tmp_path / "teacher")}}  # fmt: skip
    distill(make(**elsewhere), out, resume=True)
    assert losses(out) == losses(uninterrupted)


@pytest.mark.parametrize("memory_gb", [slow(4.0), 0.0])
def test_other_pictures_under_the_same_keys_are_refused(make, tmp_path, shards, memory_gb):
    moved, out = tmp_path / "moved", tmp_path / "run"
    with pytest.raises(KilledError):
        distill(make(data={"memory_gb": memory_gb}), out, observer=Watcher(5, kill))
    shutil.copytree(shards, moved)
    samples = toy_samples((32, 40))[50:]
    samples[0][1]["png"] = samples[1][1]["png"]
    write_shard(moved / "train-1.tar", samples)
    config = make(data={"memory_gb": memory_gb, "train": str(moved / "train-*.tar*")})
    with pytest.raises(TinyClipError, match=r"pairs of data\.train are not those"):
        distill(config, out, resume=True)


def test_another_preprocessing_of_the_teacher_is_refused(make, tmp_path, toy_teacher_folder):
    out, teacher = tmp_path / "run", tmp_path / "teacher"
    with pytest.raises(KilledError):
        distill(make(), out, observer=Watcher(5, kill))
    shutil.copytree(toy_teacher_folder, teacher)
    path = teacher / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
    path.write_text(json.dumps(content))
    with pytest.raises(TinyClipError, match="but another preprocessing"):
        distill(make(teacher={"model": str(teacher)}), out, resume=True)


def test_a_finished_run_may_be_extended(make, run_of, tmp_path):
    out = shutil.copytree(run_of(make()), tmp_path / "run")
    before = losses(out)
    distill(make(optim={"steps": 20}), out, resume=True)
    after = losses(out)
    assert list(after) == list(range(1, 21))
    assert all(after[step] == loss for step, loss in before.items())
    # The schedule of 20 steps from step 13 on: 2 of warm-up, then a cosine, here at 10 / 18.
    rates = {event["step"]: event["lr"] for event in events_of(out, "step")}
    assert rates[13] == pytest.approx(1e-3 * 0.5 * (1 - 0.17364817766693), rel=1e-6)
    with pytest.raises(ConfigError, match=r"optim\.steps \(was 20, is 12\)"):
        distill(make(), out, resume=True)
