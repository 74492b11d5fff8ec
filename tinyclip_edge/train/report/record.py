"""What a run folder tells of its run: events and configuration, checked line by line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import DataError
from tinyclip_edge.train.drawing import TOWERS, Event, number, points

EVENTS, CONFIG = "events.jsonl", "config.yaml"
ACCURACIES = {
    "t2i_r1": "text to image R@1",
    "t2i_r5": "text to image R@5",
    "i2t_r1": "zero-shot top-1",
    "i2t_r5": "zero-shot top-5",
    "zero_shot_100": "zero-shot, 1 of 100",
}
LATE = ("encoder_parameters", "token_parameters")  # change when a stage or prune makes a student


@dataclass(frozen=True)
class RunRecord:
    """One run, finished or not."""

    folder: Path
    events: tuple[Event, ...]
    config: str | None  # text of config.yaml

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read a run folder; DataError names the file, and the line of what is broken."""
        path = folder / EVENTS
        if not folder.is_dir():
            raise DataError(f"{folder} is no run folder: there is no such folder")
        if not path.is_file():
            raise DataError(f"{folder} is no run folder: it has no {EVENTS}, which distill writes")
        try:
            events = _events(path)
            config = folder / CONFIG
            told = config.read_text(encoding="utf-8", errors="replace") if config.exists() else None
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror or error}") from error
        if not any(event["kind"] == "run_start" for event in events):
            raise DataError(f"{path} has no event run_start: the run has not begun; run distill")
        return cls(folder, tuple(events), told)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    def of(self, kind: str) -> list[Event]:
        """Return the events of a kind, in order."""
        return [event for event in self.events if event["kind"] == kind]

    @cached_property
    def start(self) -> Event:
        """The first start, with the sizes that the student had at the end."""
        start = dict(self.of("run_start")[0])
        for event in self.events:
            start.update({key: event[key] for key in LATE if key in event})
        return start

    @cached_property
    def steps(self) -> list[Event]:
        """Logged steps."""
        return self.of("step")

    @cached_property
    def done(self) -> int:
        """Steps done, as far as logged."""
        return max(int(event["step"]) for event in self.events)

    @property
    def status(self) -> str:
        """How the run stands."""
        last = next(e for e in reversed(self.events) if e["kind"] in ("run_start", "run_end"))
        if last["kind"] == "run_start":
            return "unfinished"
        return str(last.get("status"))

    @property
    def seconds(self) -> float | None:
        """Seconds of all calls that came to an end, None before the first did."""
        known = [number(event.get("seconds")) for event in self.of("run_end")]
        return sum(value for value in known if value is not None) if any(known) else None

    def evaluations(self, who: str) -> list[Event]:
        """Return evaluations of ``student`` or ``teacher``; the last one of a step counts."""
        found = {e["step"]: e for e in self.of("eval") if e.get("who") == who}
        return [found[step] for step in sorted(found)]

    @property
    def student_sha256(self) -> str | None:
        """Hash of the finished student's weights."""
        found = [e["student_sha256"] for e in self.of("run_end") if "student_sha256" in e]
        return str(found[-1]) if found else None

    def summary(self) -> dict[str, Any]:
        """Return plain JSON values."""
        keys = ("steps", "teacher", "student", "device", *LATE,
                *(f"teacher_{key}" for key in LATE), "inherited_parameters")  # fmt: skip
        student, kl = self.evaluations("student"), points(self.steps, "kl")
        return {
            "name": self.name,
            "folder": str(self.folder),
            "status": self.status,
            "steps_done": self.done,
            **{key: self.start.get(key) for key in keys},
            "seconds": self.seconds,
            "kl_last": kl[-1][1] if kl else None,
            "teacher_accuracy": _accuracy(self.evaluations("teacher")),
            "first_accuracy": _accuracy(student[:1]),
            "last_accuracy": _accuracy(student),
        }


def _accuracy(evaluations: list[Event]) -> dict[str, float] | None:
    """Return the figures of the last evaluation."""
    if not evaluations:
        return None
    found = ((key, number(evaluations[-1].get(key))) for key in ACCURACIES)
    return {key: value for key, value in found if value is not None}


def _events(path: Path) -> list[Event]:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    events = []
    for place, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            if place == len(lines):  # cut by a kill
                break
            raise DataError(f"{path}, line {place}: not JSON; remove the line") from None
        if not _sound(event):
            raise DataError(f"{path}, line {place}: no event that distill writes; remove the line")
        events.append(event)
    return events


def _sound(event: object) -> bool:
    """Say whether an event has what pages and plots take for granted."""
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return False
    step = event.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        return False
    try:
        check = _SHAPES.get(event["kind"])
        return check is None or check(event)
    except (KeyError, TypeError, AttributeError):
        return False


def _numbers(values: object) -> bool:
    return isinstance(values, list) and all(number(value) is not None for value in values)


def _gates(event: Event) -> bool:
    return _prune(event) and all(
        len(event[tower]["log_alpha"]) and _numbers(event[tower]["log_alpha"]) for tower in TOWERS
    )


def _prune(event: Event) -> bool:
    kinds = ("heads", "neurons")
    return all(event[t][kind] and _numbers(event[t][kind]) for t in TOWERS for kind in kinds)


def _inherit(event: Event) -> bool:
    counts = [number(value) for part in event["parameters"].values() for value in part.values()]
    if None in counts or not isinstance(event["notes"], list):
        return False
    taken = event["taken"]
    return taken is None or (_share(taken["embedding"]) and all(_taken(taken[t]) for t in TOWERS))


def _taken(tower: dict[str, Any]) -> bool:
    shares = [*tower["shared"].values()]
    for layer in tower["layers"]:
        if not isinstance(layer["student"], int | None):
            return False
        shares += layer["units"].values()
    return bool(tower["layers"]) and all(map(_share, shares))


def _share(share: dict[str, Any]) -> bool:
    return _numbers([share["of"], share["taken"]]) and share["of"] > 0 and _numbers(share["bins"])


_SHAPES: dict[str, Callable[[Event], bool]] = {
    "gates": _gates,
    "prune": _prune,
    "inherit": _inherit,
    "run_start": lambda event: isinstance(event.get("versions", {}), dict),
}
