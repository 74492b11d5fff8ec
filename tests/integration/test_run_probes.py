"""A run says at its start what its student does not see, and goes on."""

from __future__ import annotations

import pytest

from tinyclip_edge.train import distill
from tinyclip_edge.train.stages import log
from toy_runs import STUDENT, Watcher, events_of

pytestmark = pytest.mark.usefixtures("no_report")
BLIND = {**STUDENT, "text_cfg": {**STUDENT["text_cfg"], "pool_type": "first"}}


def test_a_blind_student_is_a_warning_and_an_event(make, tmp_path):
    watcher = Watcher()
    config = make(
        student={"model": BLIND}, inherit={"method": "none"}, optim={"steps": 2}, data={"val": None}
    )
    distill(config, tmp_path / "run", observer=watcher)
    order, later = events_of(tmp_path / "run", "probe")
    assert (order["name"], later["name"], later["step"]) == ("word order", "later words", 0)
    assert (later["teacher"]["changed"], later["student"]["changed"]) == (4, 0)
    assert f"warning: {later['text']}" in watcher.messages
    assert later["text"].startswith("later words: appending words changes the embedding of 4 of 4")
    assert len(events_of(tmp_path / "run", "step")) == 2


def test_the_student_of_each_stage_is_tried(make, tmp_path, monkeypatch):
    tried = []

    def record(teacher, student):
        tried.append((teacher.name, student.config["model_cfg"]["text_cfg"]["layers"]))
        return ()

    monkeypatch.setattr(log, "probe_pair", record)
    small = {**STUDENT, "text_cfg": {**STUDENT["text_cfg"], "layers": 1}}
    stages = [{"student": STUDENT, "steps": 1}, {"student": small, "steps": 1}]
    distill(make(stages=stages, data={"val": None}), tmp_path / "run", observer=Watcher())
    assert tried == [("toy-teacher", 2), ("toy-teacher", 1)]


def test_a_healthy_pair_says_nothing(make, tmp_path):
    watcher = Watcher()
    distill(make(optim={"steps": 1}, data={"val": None}), tmp_path / "run", observer=watcher)
    assert events_of(tmp_path / "run", "probe") == []
    assert not [line for line in watcher.messages if line.startswith("warning")]
