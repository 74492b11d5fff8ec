"""``distill`` and ``inherit``: a student in one call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.api.run_checks import check_vocab, checked_run
from tinyclip_edge.config import RunConfig
from tinyclip_edge.errors import ConfigError, TinyClipError
from tinyclip_edge.launcher import check_batch
from tinyclip_edge.notebook import NotebookReport
from tinyclip_edge.paths import free_folder, require_empty

if TYPE_CHECKING:
    from rich.table import Table

    from tinyclip_edge.train import Observer, RunResult
    from tinyclip_edge.train.monitoring.events import StepReport
    from tinyclip_edge.train.preflight.step0 import StepZeroReport

RUNS = Path("runs")


def distill(
    config: RunConfig | Mapping[str, Any] | str | Path = "starter",
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    callback: Observer | Callable[[StepReport], None] | None = None,
    progress: bool = True,
) -> RunResult:
    """Train a student and save it in ``out/student``, an open_clip folder.

    ``config``: a shipped name, a YAML file, a mapping of the same keys or a RunConfig, changed by
    ``overrides`` such as ``"optim.steps=500"``. ``out``: runs/NAME by default. ``resume`` continues
    the run in ``out``, with its configuration unless ``config`` is another. ``callback``: an
    Observer, or a function called with every step's StepReport; ``progress`` also draws a bar.
    Raises TinyClipError; for a wrong configuration, model or path before torch is imported.
    """
    from tinyclip_edge.train.folder_check import check_run_folder, resumed_config

    if resume and out is None:
        raise ConfigError("resume needs out: the folder of the run to continue")
    if resume and config == "starter":
        config = resumed_config(Path(str(out)))
    run = checked_run(config, overrides, ("train", "val"))
    if not resume:  # a resumed run has its vocabulary in its folder
        check_vocab(run)
    check_batch(run.optim.batch_size)
    folder = free_folder(RUNS, run.name) if out is None else Path(out)
    check_run_folder(folder, resume=resume)
    from tinyclip_edge.train import ProgressObserver
    from tinyclip_edge.train import distill as train_student
    from tinyclip_edge.train.monitoring.events import Observers

    with ProgressObserver() if progress else nullcontext() as bar:
        observer = Observers(bar, callback)
        return train_student(run, folder, resume=resume, observer=observer)


@dataclass(frozen=True, slots=True)
class InheritedStudent(NotebookReport):
    """A student before its first step."""

    folder: Path
    plan: str
    report: StepZeroReport

    @property
    def student(self) -> Path:
        """The model folder."""
        return self.folder / "student"

    def tables(self) -> list[Table]:
        """Return the tables to print."""
        return self.report.tables()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"student": str(self.student), "plan": self.plan, **self.report.as_dict()}


def inherit(
    config: RunConfig | Mapping[str, Any] | str | Path = "starter",
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    callback: Callable[[str], None] = lambda text: None,
) -> InheritedStudent:
    """Save a student as it is before training, with a report of what it inherits, in ``out``.

    Arguments are as for ``distill``; ``out`` is runs/NAME-step0 by default, and ``callback`` gets
    lines of progress. Raises TinyClipError.
    """
    run = checked_run(config, overrides, ("val",))
    check_vocab(run)
    if run.inherit.method != "uniform":
        raise ConfigError(
            f"inherit.method is {run.inherit.method}: there is nothing to inherit before training; "
            "set it to uniform"
        )
    folder = free_folder(RUNS, f"{run.name}-step0") if out is None else Path(out)
    require_empty(folder)
    from tinyclip_edge.models import load_clip, save_local_dir
    from tinyclip_edge.train.preflight.step0 import step_zero
    from tinyclip_edge.train.stages.student import start_student
    from tinyclip_edge.train.vocabulary import origin_of

    teacher = load_clip(run.teacher.model, run.teacher.pretrained)
    first = start_student(run, origin_of(run, teacher, callback).clip)
    student, inherited = first.clip, first.inherited
    if inherited is None:
        raise ConfigError("the first stage learns masks and inherits nothing; see distill")
    report = step_zero(run, teacher, student, inherited)
    result = InheritedStudent(folder, run.inherit.plan, report)
    save_local_dir(result.student, student)
    _save_report(result)
    return result


def _save_report(result: InheritedStudent) -> None:
    content = json.dumps(result.as_dict(), indent=2) + "\n"
    try:
        (result.folder / "report.json").write_text(content, encoding="utf-8")
        (result.folder / "report.txt").write_text(result.report.text(), encoding="utf-8")
    except OSError as error:
        raise TinyClipError(
            f"{result.folder}: the report cannot be written ({error}); the student was saved"
        ) from error
