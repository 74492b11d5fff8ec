"""What a run folder tells of its run: events and configuration, checked line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tinyclip_edge.config.yaml_text import YamlError, parse_yaml
from tinyclip_edge.errors import DataError
from tinyclip_edge.metrics import METRICS
from tinyclip_edge.report.drawing import Event, number, points
from tinyclip_edge.report.events import read_lines

EVENTS, CONFIG = "events.jsonl", "config.yaml"
MOST_NAMED = 5  # broken lines
LATE = ("encoder_parameters", "token_parameters")  # change when a stage or prune makes a student


@dataclass(frozen=True)
class RunRecord:
    """One run, finished or not."""

    folder: Path
    events: tuple[Event, ...]
    config: str | None  # text of config.yaml
    broken: tuple[int, ...] = ()  # lines of events.jsonl that could not be used

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read a run folder as far as it can be read; DataError for one that holds no run."""
        path = folder / EVENTS
        try:
            if not folder.is_dir():
                raise DataError(f"{folder} is no run folder: there is no such folder")
            if not path.is_file():
                raise DataError(
                    f"{folder} is no run folder: it has no {EVENTS}, which distill writes"
                )
            found = read_lines(path)
            config = folder / CONFIG
            told = config.read_text(encoding="utf-8", errors="replace") if config.exists() else None
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror or error}") from error
        if not found.events:
            raise DataError(f"{path} holds no event of a run: it has not begun; run distill")
        return cls(folder, found.events, told, found.broken)

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
        start: Event = {}
        for event in self.of("run_start")[:1]:
            start.update(event)
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
        ends = [event for event in self.events if event["kind"] in ("run_start", "run_end")]
        if not ends or ends[-1]["kind"] == "run_start":
            return "unfinished"
        return str(ends[-1].get("status"))

    @property
    def seconds(self) -> float | None:
        """Seconds of all calls that came to an end, None before the first did."""
        told = (number(event.get("seconds")) for event in self.of("run_end"))
        known = [value for value in told if value is not None]
        return sum(known) if known else None

    def evaluations(self, who: str) -> list[Event]:
        """Return evaluations of ``student`` or ``teacher``; the last one of a step counts."""
        found = {e["step"]: e for e in self.of("eval") if e.get("who") == who}
        return [found[step] for step in sorted(found)]

    @property
    def student_sha256(self) -> str | None:
        """Hash of the finished student's weights."""
        found = [e["student_sha256"] for e in self.of("run_end") if "student_sha256" in e]
        return str(found[-1]) if found else None

    @cached_property
    def settings(self) -> dict[str, str]:
        """The configuration's values by dotted key, as text; nothing of what is no table."""
        try:
            content = parse_yaml(self.config or "")
        except YamlError:
            return {}
        return dict(_flat(content, ""))

    @property
    def missing(self) -> list[str]:
        """What a whole run folder has and this one has not, a sentence each."""
        told = []
        if self.broken:
            lines = ", ".join(map(str, self.broken[:MOST_NAMED]))
            more = ", …" if len(self.broken) > MOST_NAMED else ""
            told.append(
                f"{EVENTS} has lines that hold no event; they are left out "
                f"({len(self.broken)}: {lines}{more})"
            )
        if not self.of("run_start"):
            told.append("the start of the run is not logged: models and versions are not known")
        if self.config is None:
            told.append(f"{CONFIG} is missing: settings are not known")
        if self.status == "done" and not (self.folder / "student").is_dir():
            told.append("student/ is missing, though the run is done")
        return told

    def summary(self) -> dict[str, Any]:
        """Return plain JSON values."""
        keys = ("steps", "teacher", "student", "device", *LATE,
                *(f"teacher_{key}" for key in LATE), "inherited_parameters")  # fmt: skip
        student, kl = self.evaluations("student"), points(self.steps, "kl")
        return {
            "name": self.name,
            "folder": str(self.folder),
            "status": self.status,
            "missing": self.missing,
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
    found = ((key, number(evaluations[-1].get(key))) for key in METRICS)
    return {key: value for key, value in found if value is not None}


def _flat(value: object, path: str) -> Iterator[tuple[str, str]]:
    inners: Iterable[tuple[object, object]] | None = None
    if isinstance(value, dict):
        inners = value.items()
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        inners = enumerate(value)
    if inners is not None:
        for key, inner in inners:
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, json.dumps(value) if value is None or isinstance(value, bool) else str(value)
