"""Reports of a run in progress: to observers, and to events.jsonl."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.run_events import iterate_lines

REPEATED = ("step", "skipped", "eval", "checkpoint", "stage", "gates", "wait", "prune",
            "fold", "inherit", "probe", "best")  # fmt: skip


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step."""

    step: int  # number of finished steps
    steps: int  # of the whole run
    values: dict[str, float]  # loss, its terms by name, kl, teacher_entropy, grad_norm
    lr: float
    samples_per_s: float
    data_wait: float  # share of time spent waiting for data, 0 to 1
    peak_bytes: int = 0  # memory of this process on the device so far; 0: unknown


class Observer(Protocol):
    """Watches a run; called in the thread of the run."""

    def on_step(self, report: StepReport) -> None:
        """Receive every optimizer step."""

    def on_eval(self, step: int, who: str, metrics: Mapping[str, float]) -> None:
        """Receive an evaluation of ``who`` (student or teacher) after ``step`` steps."""

    def on_message(self, text: str) -> None:
        """Receive one line for the user."""


class Silent:
    """Observer that ignores everything."""

    def on_step(self, report: StepReport) -> None:
        """Ignore."""

    def on_eval(self, step: int, who: str, metrics: Mapping[str, float]) -> None:
        """Ignore."""

    def on_message(self, text: str) -> None:
        """Ignore."""


class Observers:
    """Passes every report on to several observers; a plain function receives only the steps."""

    def __init__(self, *others: Observer | Callable[[StepReport], None] | None) -> None:
        self._observers: list[Observer] = []
        self._functions: list[Callable[[StepReport], None]] = []
        for other in others:
            if hasattr(other, "on_step"):
                self._observers.append(cast("Observer", other))
            elif other is not None:
                self._functions.append(other)

    def on_step(self, report: StepReport) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_step(report)
        for function in self._functions:
            function(report)

    def on_eval(self, step: int, who: str, metrics: Mapping[str, float]) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_eval(step, who, metrics)

    def on_message(self, text: str) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_message(text)


class EventLog:
    """Appends JSON objects, one per line, each flushed; non-finite numbers become null."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, **values: object) -> None:
        """Append one event."""
        line = {"kind": kind, **{name: _finite(value) for name, value in values.items()}}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def flush(self) -> None:
        """Wait until all events are on the disk."""
        with suppress(OSError):  # /dev/null cannot be synced
            os.fsync(self._file.fileno())

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def rewind_events(path: Path, step: int, warn: Callable[[str], None] = lambda _: None) -> None:
    """Drop the events that a run resumed after ``step`` steps will log again.

    With step 0, events of step 0 are dropped too. Damaged lines are moved to another file in the
    same folder and reported through ``warn``.
    """
    if not path.exists():
        return
    damaged = first = 0
    beside = path.with_name(f"{path.name}.damaged")
    with file_written_aside(path) as remaining, ExitStack() as stack:
        for line in iterate_lines(path):
            event = line.event
            if event is None:
                if not damaged:
                    first, moved = line.number, stack.enter_context(beside.open("ab"))
                damaged += 1
                moved.write(line.content + b"\n")
            elif event["kind"] not in REPEATED or 0 < step >= event["step"]:
                remaining.write(json.dumps(event).encode() + b"\n")
    if damaged:
        warn(
            f"{path}: {damaged:,} damaged lines, the first at line {first}; they were moved to "
            f"{beside.name}"
        )


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return value
