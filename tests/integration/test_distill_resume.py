"""A run that is stopped, killed or damaged goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import signal

import pytest

from pair_shards import toy_samples, write_shard
from tinyclip_edge.errors import ConfigError, InterruptedRun, TinyClipError
from tinyclip_edge.models import load_clip, weights_hash
from tinyclip_edge.train import distill, read_events
from toy_runs import STUDENT, KilledError, Watcher, events_of, kill, losses, make_version_2

pytestmark = pytest.mark.usefixtures("no_report")


def test_a_killed_run_goes_on_as_if_nothing_had_happened(make, tmp_path):
    uninterrupted, cut = tmp_path / "whole", tmp_path / "cut"
    distill(make(), uninterrupted)
    with pytest.raises(KilledError):
        distill(make(), cut, observer=Watcher(7, kill))
    assert not (cut / "student").exists()
    before = losses(cut)
    assert max(before) == 7
    result = distill(make(), cut, resume=True)
    expected, resumed = losses(uninterrupted), losses(cut)
    assert list(resumed) == list(expected)
    assert all(resumed[step] == pytest.approx(expected[step], abs=1e-6) for step in expected)
    assert weights_hash(load_clip(str(cut)).model) == weights_hash(
        load_clip(str(uninterrupted)).model
    )
    assert result.steps == 12


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["streamed", slow("live teacher"), slow("learnt scale")])
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
    expected, resumed = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert all(resumed[step] == pytest.approx(expected[step], abs=1e-6) for step in expected)


SHAPES = [
    {"student": {"vision_cfg": {"layers": 3}}, "steps": 5},
    {"student": STUDENT, "steps": 7, "lr": 5e-4},
]


@pytest.mark.parametrize(
    "killed", [slow(3), 5, slow(6), slow(10)], ids=["1", "end of 1", "start of 2", "2"]
)
@pytest.mark.slow
def test_a_kill_in_either_of_two_fixed_shapes_is_as_if_it_had_not_been(make, tmp_path, killed):
    config, uninterrupted, cut = make(stages=SHAPES), tmp_path / "whole", tmp_path / "cut"
    distill(config, uninterrupted)
    with pytest.raises(KilledError):
        distill(config, cut, observer=Watcher(killed, kill))
    distill(config, cut, resume=True)
    expected, resumed = losses(uninterrupted), losses(cut)
    assert list(resumed) == list(expected) == list(range(1, 13))
    assert all(resumed[step] == pytest.approx(expected[step], abs=1e-6) for step in expected)
    assert weights_hash(load_clip(str(cut)).model) == weights_hash(
        load_clip(str(uninterrupted)).model
    )
    for kind in ("stage", "inherit"):
        steps = [[e["step"] for e in events_of(folder, kind)] for folder in (uninterrupted, cut)]
        assert steps == [[0, 5], [0, 5]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_that_step(make, tmp_path, number):
    out = tmp_path / "run"
    times = 2 if number == signal.SIGTERM else 1  # as timeout(1) and schedulers send it

    def stop():
        for _ in range(times):
            os.kill(os.getpid(), number)

    watcher = Watcher(6, stop)
    with pytest.raises(InterruptedRun) as caught:
        distill(make(), out, observer=watcher)
    assert caught.value.exit_code == 130
    assert f"tinyclip-edge distill --resume {out}" in str(caught.value)
    assert (out / "checkpoints" / "00000006" / "checkpoint.json").is_file()
    assert read_events(out / "events.jsonl")[-1]["status"] == "interrupted"
    again = Watcher()
    distill(make(), out, resume=True, observer=again)
    assert [report.step for report in again.reports] == list(range(7, 13))


def test_a_broken_newest_checkpoint_is_named_and_the_one_before_used(make, tmp_path):
    out = tmp_path / "run"
    distill(make(), out)
    expected = losses(out)
    (out / "checkpoints" / "00000012" / "state.pt").write_bytes(b"broken")
    watcher = Watcher()
    distill(make(), out, resume=True, observer=watcher)
    assert any("00000012 is damaged" in message for message in watcher.messages)
    assert [report.step for report in watcher.reports] == [9, 10, 11, 12]
    assert losses(out) == pytest.approx(expected, abs=1e-6)


def test_a_run_of_version_2_goes_on_with_the_same_losses(make, tmp_path):
    uninterrupted, cut = tmp_path / "whole", tmp_path / "cut"
    distill(make(), uninterrupted)
    with pytest.raises(KilledError):
        distill(make(), cut, observer=Watcher(7, kill))
    samples = toy_samples((32, 40))
    captions = dict.fromkeys(
        text for _, members in samples for text in members["txt"].decode().splitlines()
    )
    names = [*(key for key, _ in samples), "", *captions]
    pairs = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    make_version_2(cut / "checkpoints" / "00000004", data=pairs)
    watcher = Watcher()
    distill(make(), cut, resume=True, observer=watcher)
    assert any("00000004 has version 2" in message for message in watcher.messages)
    assert [report.step for report in watcher.reports] == list(range(5, 13))
    assert losses(cut) == losses(uninterrupted)
    make_version_2(cut / "checkpoints" / "00000012", data="0" * 64)
    with pytest.raises(TinyClipError, match=r"pairs of data\.train are not those"):
        distill(make(), cut, resume=True)


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
