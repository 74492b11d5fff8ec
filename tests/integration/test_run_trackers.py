"""A run's figures arrive in TensorBoard's files; a tracker that is not there is named first."""

import pytest

from tinyclip_edge.errors import MissingExtraError, TinyClipError
from tinyclip_edge.train import distill
from tinyclip_edge.train.monitoring import trackers
from tinyclip_edge.train.monitoring.events import Silent
from toy_runs import events_of


def test_tensorboard_holds_what_the_events_do(make, tmp_path, no_report):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    distill(make(run={"trackers": ["tensorboard"], "log_every": 2}), tmp_path / "run")
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    logged = {(e.step, round(e.value, 4)) for e in read.Scalars("train/loss")}
    written = {(e["step"], round(e["loss"], 4)) for e in events_of(tmp_path / "run", "step")}
    assert logged == written
    evaluated = [e for e in events_of(tmp_path / "run", "eval") if e["who"] == "student"]
    assert [e.step for e in read.Scalars("student/t2i_r1")] == [e["step"] for e in evaluated]
    assert "teacher/t2i_r1" in read.Tags()["scalars"]


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install wandb"):
        trackers.check_trackers(["wandb"])


def test_a_tracker_that_does_not_start_is_named(make, tmp_path):
    (tmp_path / "tensorboard").write_text("a file in its way")
    config = make(run={"trackers": ["tensorboard"]})
    with pytest.raises(TinyClipError, match=r"run\.trackers: tensorboard does not start"):
        trackers.Tracked(Silent(), config, tmp_path, 0)
