"""Toy distillation runs: who watches them, what kills them, what they logged."""

from __future__ import annotations

import hashlib
import json

import torch

from tinyclip_edge.train import read_events

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


def losses(folder):
    """Loss by step, as logged."""
    steps = [e for e in read_events(folder / "events.jsonl") if e["kind"] == "step"]
    return {e["step"]: e["loss"] for e in steps}


def events_of(folder, kind):
    """The events of one kind, in order."""
    return [e for e in read_events(folder / "events.jsonl") if e["kind"] == kind]


def make_version_2(path, *, stream=True, **fields):
    """Make a checkpoint what it was before version 3, with ``fields`` in its checkpoint.json.

    Without ``stream`` it does not know the place in the pairs.
    """
    about = json.loads((path / "checkpoint.json").read_text())
    for key in ("processes", "recipe", "sha256"):
        del about[key]
    names = {"data.stream_groups": "data.lanes", "teacher.ensemble": "teacher.also"}
    about["config"] = {names.get(key, key): value for key, value in about["config"].items()}
    if not stream:
        state = torch.load(path / "state.pt", weights_only=True)
        assert set(state.pop("stream")) == {0}
        torch.save(state, path / "state.pt")
        about["files"]["state.pt"] = hashlib.sha256((path / "state.pt").read_bytes()).hexdigest()
    (path / "checkpoint.json").write_text(json.dumps({**about, "version": 2, **fields}))
