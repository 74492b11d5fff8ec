"""The record of a run in its folder: events and configuration, checked line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tinyclip_edge.config.yaml_text import YamlError, parse_yaml
from tinyclip_edge.errors import DataError
from tinyclip_edge.limits import YAML_BYTES
from tinyclip_edge.metrics import METRICS
from tinyclip_edge.paths import is_file, model_name, read_bounded
from tinyclip_edge.report.drawing import Event, number, points
from tinyclip_edge.report.events import read_lines

EVENTS, CONFIG = "events.jsonl", "config.yaml"
MAX_LISTED = 5  # broken lines
LATE = ("encoder_parameters", "token_parameters")  # change with each new student


@dataclass(frozen=True)
class RunRecord:
    """One run, finished or not."""

    folder: Path
    events: tuple[Event, ...]
    config: str | None  # text of config.yaml
    broken: tuple[int, ...] = ()  # lines of events.jsonl that could not be used

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read a run folder, skipping broken lines; raise DataError when there is no run."""
        path = folder / EVENTS
        try:
            if not folder.is_dir():
                reason = "it is a file" if is_file(folder) else "it does not exist"
                raise DataError(f"{folder} is not a run folder: {reason}")
            if not path.is_file():
                raise DataError(
                    f"{folder} is not a run folder: it has no {EVENTS}, which distill writes"
                )
            lines = read_lines(path)
            config_path = folder / CONFIG
            config_text = None
            if config_path.exists():
                content = read_bounded(config_path, DataError, limit=YAML_BYTES)
                config_text = content.decode("utf-8", "replace")
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror or error}") from error
        if not lines.events:
            raise DataError(f"{path} has no events: the run has not started; start it with distill")
        return cls(folder, lines.events, config_text, lines.broken)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return model_name(self.folder)

    def of(self, kind: str) -> list[Event]:
        """Return the events of a kind, in order."""
        return [event for event in self.events if event["kind"] == kind]

    @cached_property
    def start(self) -> Event:
        """The first start, with the student's final sizes."""
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
    def steps_done(self) -> int:
        """The last step that was logged."""
        return max(int(event["step"]) for event in self.events)

    @property
    def status(self) -> str:
        """State of the run: ``unfinished``, or the status of its last end."""
        ends = [event for event in self.events if event["kind"] in ("run_start", "run_end")]
        if not ends or ends[-1]["kind"] == "run_start":
            return "unfinished"
        return str(ends[-1].get("status"))

    @property
    def seconds(self) -> float | None:
        """Total seconds of all sessions that ended, None before the first end."""
        values = (number(event.get("seconds")) for event in self.of("run_end"))
        durations = [value for value in values if value is not None]
        return sum(durations) if durations else None

    def evaluations(self, who: str) -> list[Event]:
        """Return evaluations of ``student`` or ``teacher``; the last one of a step counts."""
        by_step = {e["step"]: e for e in self.of("eval") if e.get("who") == who}
        return [by_step[step] for step in sorted(by_step)]

    @property
    def student_sha256(self) -> str | None:
        """Hash of the finished student's weights."""
        hashes = [e["student_sha256"] for e in self.of("run_end") if "student_sha256" in e]
        return str(hashes[-1]) if hashes else None

    @cached_property
    def settings(self) -> dict[str, str]:
        """The configuration's values by dotted key, as text; empty for broken YAML."""
        try:
            content = parse_yaml(self.config or "")
        except YamlError:
            return {}
        return dict(_flat(content, ""))

    @property
    def missing(self) -> list[str]:
        """Problems of the run folder, one sentence each."""
        problems = []
        if self.broken:
            lines = ", ".join(map(str, self.broken[:MAX_LISTED]))
            ellipsis = ", …" if len(self.broken) > MAX_LISTED else ""
            problems.append(
                f"{EVENTS} has lines without a valid event; they are ignored "
                f"({len(self.broken)}: {lines}{ellipsis})"
            )
        if not self.of("run_start"):
            problems.append("the start of the run was not logged: models and versions are unknown")
        if self.config is None:
            problems.append(f"{CONFIG} is missing: settings are unknown")
        if self.status == "done" and not (self.folder / "student").is_dir():
            problems.append("student/ is missing, though the run is done")
        return problems

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
            "steps_done": self.steps_done,
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
    values = ((key, number(evaluations[-1].get(key))) for key in METRICS)
    return {key: value for key, value in values if value is not None}


def _flat(value: object, path: str) -> Iterator[tuple[str, str]]:
    children: Iterable[tuple[object, object]] | None = None
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list) and any(isinstance(child, dict) for child in value):
        children = enumerate(value)
    if children is not None:
        for key, child in children:
            yield from _flat(child, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, json.dumps(value) if value is None or isinstance(value, bool) else str(value)
