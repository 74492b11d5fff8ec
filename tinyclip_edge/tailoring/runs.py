"""Candidates as run folders: trained, continued and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tinyclip_edge.config import RunConfig, dump_config
from tinyclip_edge.errors import InterruptedRun
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.run_events import iterate_events
from tinyclip_edge.tailoring.agreement import Agreement
from tinyclip_edge.tailoring.work import WorkFolder
from tinyclip_edge.train.distillation import distill
from tinyclip_edge.train.folder_check import CONFIG
from tinyclip_edge.train.monitoring.events import Silent

AGAIN = "the same `tinyclip-edge tailor` with --resume"
LATEST = 50  # logged steps whose median is the speed


@dataclass(frozen=True, slots=True)
class CandidateRuns:
    """Trains each candidate in ``runs/NAME``; ``evaluate`` takes the folder of a student."""

    work: WorkFolder
    configure: Callable[[str, int], RunConfig]  # by name and steps
    evaluate: Callable[[Path], Agreement]

    def train(self, name: str, steps: int) -> float:
        """Train a candidate until it has taken ``steps`` steps; return seconds per step.

        Raises InterruptedRun, once a checkpoint is written, and the errors of ``distill``.
        """
        config, folder = self.configure(name, steps), self.work.runs / name
        self.work.configurations.mkdir(exist_ok=True)
        with file_written_aside(self.work.configurations / f"{name}.yaml") as file:
            file.write(dump_config(config).encode())
        begun = (folder / CONFIG).is_file()
        try:
            distill(config, folder, resume=begun, observer=Silent(), report=False)
        except InterruptedRun:
            raise InterruptedRun(f"stopped after a checkpoint; continue with {AGAIN}") from None
        return seconds_a_step(folder / "events.jsonl", config.optim.batch_size)

    def score(self, name: str) -> Agreement:
        """Return how well a candidate's student agrees with the teacher."""
        return self.evaluate(self.work.runs / name)


def seconds_a_step(events: Path, batch: int) -> float:
    """Return the median time of the latest steps of a run, without its first step."""
    speeds = [
        event["samples_per_s"]
        for event in iterate_events(events)
        if event["kind"] == "step" and event["step"] > 1 and event["samples_per_s"] > 0
    ]
    return batch / float(median(speeds[-LATEST:]))
