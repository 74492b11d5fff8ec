"""The runs of a folder: state, best metrics, size. Without torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.aside import clear_leftovers, leftovers, refuse_locked
from tinyclip_edge.errors import DataError, TinyClipError
from tinyclip_edge.metrics import AGREEMENT, HEADLINES, METRICS, SELECTION, selection_score
from tinyclip_edge.models.runs import student_folder
from tinyclip_edge.notebook import NotebookReport, report_table
from tinyclip_edge.paths import model_name
from tinyclip_edge.run_events import iterate_events
from tinyclip_edge.train.folder_check import CHECKPOINTS, CONFIG, checkpoint_steps
from tinyclip_edge.units import size

if TYPE_CHECKING:
    from rich.table import Table

EVENTS, FEATURES = "events.jsonl", "teacher_features.safetensors"
FEATURE_CACHE = ".teacher-features"  # data.feature_cache of the shipped runs
LEFTOVER = "left by a killed process"
FINISHED, RUNNING, STOPPED, NOT_STARTED = "finished", "running", "stopped", "not started"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run folder."""

    path: Path
    state: str
    step: int  # of the last checkpoint, or of the last event of a running or finished run
    steps: int | None  # planned
    best: dict[str, float]  # the metrics of the best evaluation of the student, as shares
    bytes: int
    changed: datetime

    @property
    def progress(self) -> str:
        """State and step in words."""
        of = "" if self.steps is None else f" of {self.steps:,}"
        return self.state if self.state == NOT_STARTED else f"{self.state}, {self.step:,}{of}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        content = asdict(self)
        return {**content, "path": str(self.path), "changed": self.changed.isoformat()}


@dataclass(frozen=True, slots=True)
class RunList(NotebookReport):
    """The runs of a folder, the most recently changed first."""

    root: Path
    runs: tuple[RunSummary, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"folder": str(self.root), "runs": [run.as_dict() for run in self.runs]}

    def table(self) -> Table:
        """Return the table to print."""
        key = HEADLINES[0]
        table = report_table("", (), [f"%: best {METRICS[key].label}"])
        table.add_column("state")
        for column in ("%", "size", "changed"):
            table.add_column(column, justify="right", no_wrap=True)
        for run in self.runs:
            figure = f"{run.best[key]:.1%}".removesuffix("%") if key in run.best else ""
            table.add_row(
                model_name(run.path), run.progress, figure, size(run.bytes),
                f"{run.changed:%Y-%m-%d %H:%M}",
            )  # fmt: skip
        return table


def list_runs(root: str | Path = "runs") -> RunList:
    """Return the runs that are folders of ``root``; raise DataError when it is not a folder."""
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no folder {root}; runs are made by `tinyclip-edge distill`")
    runs = [summary(path) for path in run_folders(root)]
    return RunList(root, tuple(sorted(runs, key=lambda run: run.changed, reverse=True)))


def run_folders(root: Path) -> Iterator[Path]:
    """Yield the run folders in ``root``, itself included."""
    for path in (root, *sorted(root.iterdir())):
        is_run = (path / CONFIG).is_file() or (path / EVENTS).is_file()
        if is_run and not path.name.startswith("."):
            yield path


def summary(path: Path) -> RunSummary:
    """Return the summary of a run folder; damaged parts are skipped."""
    steps, last, best = _events(path / EVENTS)
    saved = checkpoint_steps(path / CHECKPOINTS)
    if is_running(path):
        state, step = RUNNING, last
    elif student_folder(path / "student") is not None:
        state, step = FINISHED, last
    elif saved:
        state, step = STOPPED, saved[-1]
    else:
        state, step = NOT_STARTED, 0
    files = list(_file_stats(path))
    changed = max((file.st_mtime for file in files), default=path.stat().st_mtime)
    size = sum(file.st_size for file in files)
    return RunSummary(path, state, step, steps, best, size, datetime.fromtimestamp(changed))


def is_running(path: Path) -> bool:
    """Whether a process holds the run folder."""
    try:
        refuse_locked(path)
    except TinyClipError:
        return True
    return False


def _events(path: Path) -> tuple[int | None, int, dict[str, float]]:
    """Return the planned steps, the last step, and the best metrics of the student."""
    steps, last = None, 0
    best: dict[str, float] = {}
    try:
        for event in iterate_events(path):
            last = max(last, int(event["step"]))
            if event["kind"] == "run_start" and isinstance(event.get("steps"), int):
                steps = event["steps"]
            if event["kind"] == "eval" and event.get("who") == "student":
                metrics = {k: event[k] for k in METRICS if isinstance(event.get(k), float)}
                complete = AGREEMENT in metrics or all(key in metrics for key in SELECTION)
                if complete and (not best or selection_score(metrics) > selection_score(best)):
                    best = metrics
    except OSError:
        pass
    return steps, last, best


@dataclass(frozen=True, slots=True)
class Removable:
    """A file or folder that is no longer needed."""

    path: Path
    what: str
    bytes: int

    def remove(self) -> None:
        """Delete it; a replacement that was killed half-way is completed first."""
        if self.what == LEFTOVER:
            clear_leftovers(self.path.parent)
        elif self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def removable(roots: Iterable[Path], *, checkpoints: bool, features: bool) -> list[Removable]:
    """Return what killed processes left in the folders and, on request, more.

    ``checkpoints`` adds those of finished runs and their copy of the teacher's features; the
    student stays, but such a run can no longer be extended. ``features`` adds the cache that runs
    of one teacher share.
    """
    results = []
    for root in filter(Path.is_dir, roots):
        results += [_removable(path, LEFTOVER) for path in leftovers(root)]
        if features:
            results.append(_removable(root / FEATURE_CACHE, "teachers' features of all runs"))
        for path in run_folders(root) if checkpoints else ():
            if student_folder(path / "student") is not None and not is_running(path):
                results.append(_removable(path / CHECKPOINTS, "checkpoints of a finished run"))
                results.append(_removable(path / FEATURES, "teacher's features of a finished run"))
    return [each for each in results if each.path.exists() and not each.path.is_symlink()]


def _removable(path: Path, what: str) -> Removable:
    return Removable(path, what, sum(file.st_size for file in _file_stats(path)))


def _file_stats(path: Path) -> Iterator[os.stat_result]:
    """Yield the stats of a file, or of all files below a folder that are not deleted meanwhile."""
    if not path.is_dir():
        with suppress(OSError):
            yield path.lstat()
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                yield Path(folder, name).lstat()
