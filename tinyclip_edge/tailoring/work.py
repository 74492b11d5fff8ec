"""The folder of a tailoring: the result of each step, so that a killed one can continue."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tinyclip_edge.aside import LOCK, locked
from tinyclip_edge.errors import (
    ConfigError,
    DataError,
    InterruptedRun,
    TinyClipError,
    first_line,
)
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.json_text import read_json_table

Parsed = TypeVar("Parsed")

RUNS = Path("runs")
PREFIX = "tailor-"  # of a folder in it, before the bundle's name
REQUEST = "request"
TRAINING = "training"  # record of the training
EXPORT = "export"  # record of the bundle, written before the bundle
REPORT = "report"  # record of a finished tailoring
FREE = ("out", "minutes", "general")  # may differ when a tailoring is resumed
VERSION = 2
OWN = (LOCK, "pictures.json", "candidates.json")  # left by a call that was killed at its start


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """JSON records by name, tables of pictures, the teacher's features, and a run per candidate."""

    path: Path

    @classmethod
    def of(cls, bundle: Path) -> WorkFolder:
        """Return the default folder for a bundle's tailoring."""
        return cls(RUNS / f"{PREFIX}{bundle.name}")

    @classmethod
    def finished(cls, runs: Path = RUNS) -> list[WorkFolder]:
        """Return the folders in ``runs`` that have a report, the latest first."""
        reports = sorted(runs.glob(f"{PREFIX}*/{REPORT}.json"), key=_modified, reverse=True)
        return [cls(path.parent) for path in reports if path.is_file()]

    @property
    def features(self) -> Path:
        """The feature cache that all runs share."""
        return self.path / "features"

    @property
    def runs(self) -> Path:
        """A run folder for each candidate."""
        return self.path / "runs"

    @property
    def configurations(self) -> Path:
        """A YAML file for each candidate, as ``distill`` takes it."""
        return self.path / "configurations"

    @property
    def train(self) -> Path:
        """The table of the pictures to learn from."""
        return self.path / "train.jsonl"

    @property
    def held_out(self) -> Path:
        """The table of the held-out pictures, with the teacher's labels."""
        return self.path / "held-out.jsonl"

    def lines(self, name: str) -> Path:
        """Return the path of a file of texts, one per line."""
        return self.path / f"{name}.txt"

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a record, None before it is written. Raises DataError if it is damaged."""
        path = self.path / f"{name}.json"
        return read_json_table(path, DataError) if path.is_file() else None

    def parsed(self, name: str, parse: Callable[[Mapping[str, Any]], Parsed]) -> Parsed | None:
        """Return a record as parsed by ``parse``; None before it is written.

        Raises DataError for a record that cannot be parsed.
        """
        record = self.read(name)
        try:
            return None if record is None else parse(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{self.path / f'{name}.json'} is damaged ({first_line(error)}); choose another "
                "--work"
            ) from None

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a record. Raises DataError if it cannot be written."""
        with file_written_aside(self.path / f"{name}.json") as file:
            file.write((json.dumps(record, indent=1) + "\n").encode())

    def write_rows(self, path: Path, rows: list[dict[str, str]]) -> None:
        """Write a table of JSON lines."""
        with file_written_aside(path) as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def write_lines(self, path: Path, lines: list[str]) -> None:
        """Write texts, one per line."""
        with file_written_aside(path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())

    def check(self, request: Mapping[str, Any], *, resume: bool) -> None:
        """Raise ConfigError unless a tailoring of this request can begin or continue here."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file; choose another --work")
        begun = (self.path / f"{REQUEST}.json").is_file()
        if not resume:
            if begun:
                raise ConfigError(
                    f"{self.path} has the work of an earlier call; add --resume to go on with it, "
                    "or choose another --work"
                )
            others = [each.name for each in _content(self.path) if each.name not in OWN]
            if others:
                raise ConfigError(
                    f"{self.path} has other files in it ({sorted(others)[0]}); choose another "
                    "--work"
                )
            return
        before = self.read(REQUEST) if begun else None
        if before is None:
            raise ConfigError(f"{self.path} has no work to resume; leave out --resume")
        if before.get("version") != VERSION:
            raise ConfigError(
                f"{self.path} was written by another version; choose another --work, and leave out "
                "--resume"
            )
        changed = [
            key for key, value in request.items() if key not in FREE and before.get(key) != value
        ]
        if changed:
            raise ConfigError(
                f"{self.path} was begun with another {', '.join(changed)}; repeat the command as "
                "it was, or choose another --work"
            )

    @contextmanager
    def held(self, request: Mapping[str, Any], *, resume: bool) -> Iterator[None]:
        """Lock the folder in the block; remove a new one if the block fails before any training.

        Raises the errors of ``check``, and TinyClipError if another process works there.
        """
        self.check(request, resume=resume)
        existed = self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with locked(self.path):
                yield
        except (TinyClipError, OSError) as error:
            trained = (self.path / f"{TRAINING}.json").is_file()
            if not existed and not trained and not isinstance(error, InterruptedRun):
                shutil.rmtree(self.path, ignore_errors=True)
            raise


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # removed meanwhile
        return 0


def _content(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
