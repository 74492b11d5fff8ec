"""SIGKILL before a random file operation or after a random time; what is resumed ends alike.

KILL_ROUNDS asks for more kills than a test run makes.
"""

from __future__ import annotations

import os
import random
import shutil
import time

import pytest
import torch

from killed_works import export, fill, go_on
from killing import ended, killed
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.models import create_student, load_clip, save_local_dir
from tinyclip_edge.train import read_events

ROUNDS = int(os.environ.get("KILL_ROUNDS", "0"))
TIMING = ("samples_per_s", "data_wait", "peak_bytes", "seconds", "time")
OWN = (".lock", "events.jsonl", "state.pt", "checkpoint.json")  # of a process or a time
MOST = 3  # kills of a run before it may end

pytestmark = [pytest.mark.slow, *([pytest.mark.timeout(0)] if ROUNDS else [])]

KINDS = {
    "in memory": {},
    "streamed": {"data": {"memory_gb": 0.0, "stream_groups": 2}},
    "feature cache": {"data": {"feature_cache": "cache"}},
    "masks": {
        "student": {"keep": 0.5},
        "inherit": {"method": "masks"},
        "masks": {"lr": 0.9, "lambda_lr": 1.0, "log_every": 2, "warmup": 0.4, "prune": 6,
                  "extra": 2},
    },
    "mapped": {"inherit": {"plan": "mapped", "map_from": "evenly", "map_steps": 7}},
    "stages": {"stages": [
        {"student": {"vision_cfg": {"layers": 3}}, "steps": 5},
        {"student": {"vision_cfg": {"width": 64, "layers": 3},
                     "text_cfg": {"width": 64, "heads": 1, "layers": 2}}, "steps": 7},
    ]},
}  # fmt: skip

LATER = ("feature cache", "mapped", "stages")  # kills in them at set steps are tested elsewhere


@pytest.fixture
def config(make, tmp_path):
    def named(kind):
        sections = dict(KINDS[kind])
        data = {"workers": 1, **sections.pop("data", {})}
        if "feature_cache" in data:
            data["feature_cache"] = str(tmp_path / "cache")
        return make(data=data, run={"save_every": 3, "eval_every": 4}, **sections)

    return named


def story(folder):
    """What the events say that has nothing to do with time, and starts and ends apart."""
    return [
        {name: value for name, value in event.items() if name not in TIMING}
        for event in read_events(folder / "events.jsonl")
        if event["kind"] not in ("run_start", "run_end")
    ]


def files(folder, *, state=True):
    """Every file's bytes but those that hold times or a process; without ``state`` its names."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if state else b""
        for path in folder.rglob("*")
        if path.is_file() and path.name not in OWN
    }


def states(folder):
    """The optimizers' states and random numbers of all checkpoints, as they were stored."""
    return {path.parent.name: torch.load(path) for path in folder.rglob("state.pt")}


def alike(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def with_cache(run, folder):
    return run.model_copy(
        update={"data": run.data.model_copy(update={"feature_cache": str(folder)})}
    )


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.hours if kind in LATER else ()) for kind in KINDS],
)
def test_killed_runs_end_as_an_uninterrupted_one(config, tmp_path, kind):
    run, draw = config(kind), random.Random(kind)
    uninterrupted, cut = tmp_path / "whole", tmp_path / "cut"
    began = time.monotonic()
    assert not killed(go_on, run, uninterrupted, inside=uninterrupted, fresh=True)
    seconds = time.monotonic() - began
    expected = story(uninterrupted), files(uninterrupted), states(uninterrupted)
    kills = 0
    while kills < (ROUNDS // (len(KINDS) + 2) or 2):
        shutil.rmtree(cut, ignore_errors=True)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        for _ in range(draw.randint(1, MOST)):
            moment = (
                {"at": int(draw.triangular(0, 700, 20))}
                if draw.random() < 0.7
                else {"after": draw.uniform(0.1, 1.0) * seconds}
            )
            kills += killed(go_on, run, cut, inside=tmp_path, fresh=True, **moment)
        assert not killed(go_on, run, cut, inside=cut, fresh=True)
        assert story(cut) == expected[0]
        assert files(cut) == expected[1]
        assert alike(states(cut), expected[2])
        assert list(tmp_path.rglob("*.partial")) == list(tmp_path.rglob("*.part")) == []
    print(f"{kind}: {kills} kills, all exact")


def test_a_killed_fill_leaves_no_litter_and_ends_alike(config, tmp_path):
    run, draw = config("feature cache"), random.Random(1)
    uninterrupted, cut = (with_cache(run, tmp_path / name) for name in ("whole", "cut"))
    assert not killed(fill, uninterrupted, inside=tmp_path, fresh=True)
    expected = files(tmp_path / "whole")
    kills = 0
    while kills < (ROUNDS // (len(KINDS) + 2) or 8):
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        kills += killed(fill, cut, inside=tmp_path, at=draw.randrange(16), fresh=True)
        assert not killed(fill, cut, inside=tmp_path, fresh=True)
        assert files(tmp_path / "cut") == expected
    print(f"filling a cache: {kills} kills, all exact")


@pytest.fixture(scope="module")
def uninterrupted_export(toy_teacher_folder, tmp_path_factory):
    """A model and its bundle, whose towers the others take: tracing them writes no file."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "scratch").mkdir()
    layers = {"vision_cfg": {"layers": 1}, "text_cfg": {"layers": 1}}
    student = create_student(layers, load_clip(str(toy_teacher_folder)))
    save_local_dir(folder / "model", student)
    model, out = folder / "model", folder / "bundle"
    assert not killed(export, model, out, folder / "scratch", inside=folder, fresh=True)
    return model, out


@pytest.fixture
def bundle(uninterrupted_export, tmp_path):
    """What ``export`` takes: model, bundle, scratch folder, folder of exported towers."""
    for name in ("a", "scratch"):
        (tmp_path / name).mkdir()
    model, out = uninterrupted_export
    return model, tmp_path / "a" / "bundle", tmp_path / "scratch", out / "onnx"


def test_a_killed_export_leaves_nothing(bundle, tmp_path):
    draw, (_, out, *_) = random.Random(2), bundle
    kills = 0
    while kills < (ROUNDS // (len(KINDS) + 2) or 3):
        kills += killed(
            export, *bundle, inside=tmp_path, at=int(draw.triangular(0, 60, 10)), fresh=True
        )
        assert not out.exists() or (out / "manifest.json").is_file()
        assert len([path for path in out.parent.iterdir() if path != out]) <= 1
        shutil.rmtree(out, ignore_errors=True)
    assert not killed(export, *bundle, inside=tmp_path, fresh=True)
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    assert list(out.rglob(".*")) == []
    assert EdgeCLIP.load(out).encode_text(["a cat"]).shape == (1, 64)
    print(f"export: {kills} kills, nothing left")


def test_an_export_that_is_ended_leaves_nothing_at_all(bundle, tmp_path):
    _, out, scratch, _ = bundle
    for at in (0, 2, 9, 20):
        assert ended(export, *bundle, inside=tmp_path, at=at)
        assert list(out.parent.iterdir()) == list(scratch.iterdir()) == []


def test_a_fill_that_is_ended_leaves_complete_parts_alone(config, tmp_path):
    run = config("feature cache")
    uninterrupted, cut = (with_cache(run, tmp_path / name) for name in ("whole", "cut"))
    for at in (0, 2, 5, 7):
        assert ended(fill, cut, inside=tmp_path, at=at)
        assert list(tmp_path.rglob("*.partial")) == []
    assert not ended(fill, cut, inside=tmp_path, at=10_000)
    assert not ended(fill, uninterrupted, inside=tmp_path, at=10_000)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_run_that_is_ended_before_its_first_step_leaves_nothing(config, tmp_path):
    run, out = config("in memory"), tmp_path / "run"
    for at in (1, 2, 3):
        assert ended(go_on, run, out, inside=tmp_path, at=at)
        assert not out.exists()
