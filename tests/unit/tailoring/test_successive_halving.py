"""Successive halving of candidates with a trainer of known speeds and scores."""

from __future__ import annotations

import json

import pytest

from tinyclip_edge.tailoring.agreement import Agreement
from tinyclip_edge.tailoring.runs import seconds_a_step
from tinyclip_edge.tailoring.successive_halving import SuccessiveHalving

NAMES = ["deep", "wide", "small", "tiny"]
MB = {"deep": 4.0, "wide": 3.0, "small": 2.0, "tiny": 1.0}
TOPS = {"deep": 0.9, "wide": 0.8, "small": 0.7, "tiny": 0.95}


class FakeTrainer:
    """A second a step for all, half a second to evaluate, on a clock of its own; may be killed."""

    def __init__(self, dies_at=None):
        self.now, self.steps, self.calls, self._dies_at = 0.0, {}, [], dies_at

    def clock(self):
        return self.now

    def train(self, name, steps):
        self.calls.append((name, steps))
        if len(self.calls) == self._dies_at:
            raise KeyboardInterrupt
        self.now += steps - self.steps.get(name, 0)
        self.steps[name] = steps
        return 1.0

    def score(self, name):
        self.now += 0.5
        return Agreement(10, TOPS[name], 1.0, 0.1)


def run(halving, trainer, records, minutes=2.0):
    halving.run(
        trainer, minutes, lambda: records.append(halving.as_dict()), lambda _: None,
        clock=trainer.clock,
    )  # fmt: skip


def test_the_steps_of_each_rung():
    """Two minutes; a pilot of 4 steps each takes 16 s, so 104 s are left for 4, 2 and 1.

    104 / 3 / 4 = 8 steps, up to 12, which take 32 s and 2 s to evaluate. Of the 70 s left,
    70 / 2 / 2 = 17 steps for the best two, up to 29: 34 s and 1 s. The last one takes the 35 s that
    are left.
    """
    trainer, halving = FakeTrainer(), SuccessiveHalving(NAMES, MB)
    run(halving, trainer, [])
    assert [(rung.names, rung.steps) for rung in halving.rungs] == [
        (NAMES, 4), (NAMES, 12), (["deep", "tiny"], 29), (["tiny"], 64),
    ]  # fmt: skip
    assert halving.winner == "tiny"
    assert halving.steps == {"deep": 29, "wide": 12, "small": 12, "tiny": 64}
    assert halving.results["wide"].top1 == 0.8 and set(halving.results) == set(NAMES)
    assert halving.spent == trainer.now <= 121


@pytest.mark.parametrize("dies_at", [1, 3, 6, 9, 11])
def test_a_killed_training_goes_on_where_it_stood(dies_at):
    whole = SuccessiveHalving(NAMES, MB)
    run(whole, FakeTrainer(), [])
    records: list = []
    killed = FakeTrainer(dies_at=dies_at)
    with pytest.raises(KeyboardInterrupt):
        run(SuccessiveHalving(NAMES, MB), killed, records)
    again, trainer = SuccessiveHalving(NAMES, MB), FakeTrainer()
    trainer.steps = killed.steps
    if records:
        again.restore(records[-1])
    run(again, trainer, [])
    assert again.as_dict() == whole.as_dict()
    assert len(killed.calls) - 1 + len(trainer.calls) == 11  # 4 + 4 + 2 + 1, none twice


def test_pictures_are_looked_at_before_each_rung():
    looks: list = []
    SuccessiveHalving(NAMES, MB).run(
        FakeTrainer(), 1.0, lambda: None, lambda _: None, lambda: looks.append(1),
        clock=lambda: 0.0,
    )  # fmt: skip
    assert len(looks) == 4


def test_seconds_a_step_are_those_of_the_latest_steps(tmp_path):
    """Sixty steps at 64 pictures a second behind a slow first one, then fifty at 128."""
    speeds = [1.0, *[64.0] * 60, *[128.0] * 50]
    lines = [
        json.dumps({"kind": "step", "step": step, "samples_per_s": speed})
        for step, speed in enumerate(speeds, 1)
    ]
    events = tmp_path / "events.jsonl"
    events.write_text("\n".join(lines[:61]) + "\n")
    assert seconds_a_step(events, 32) == 0.5
    events.write_text("\n".join(lines) + "\n")
    assert seconds_a_step(events, 32) == 0.25
