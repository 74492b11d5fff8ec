"""Distil a student from a teacher: one call from configuration to run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.config import RunConfig
from tinyclip_edge.inheritance import InheritanceReport
from tinyclip_edge.metrics import METRICS
from tinyclip_edge.notebook import NotebookReport
from tinyclip_edge.train.builder import load_setup
from tinyclip_edge.train.monitoring.events import Observer, Silent
from tinyclip_edge.train.resume import RunStart, start_run
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.setup import Setup
from tinyclip_edge.train.training import train
from tinyclip_edge.units import duration

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class RunResult(NotebookReport):
    """Outcome of a finished run; accuracies are shares, see validation.accuracies.

    With several processes, only the first one has the accuracies.
    """

    out: Path
    student: Path  # open_clip local-dir
    steps: int
    seconds: float  # of this call
    skipped_steps: int  # steps with a non-finite loss or gradient
    inherited: InheritanceReport | None
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)  # by step, in this call
    teacher: dict[str, float] = field(default_factory=dict)  # the teacher on the same pairs

    def table(self) -> Table:
        """Return the metrics of the last evaluation beside the teacher's."""
        from tinyclip_edge.plain_table import PlainTable

        table = PlainTable(title=f"{self.student}: {self.steps:,} steps, {duration(self.seconds)}")
        for column in ("metric", "teacher", "student"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        last = self.evaluations[max(self.evaluations)] if self.evaluations else {}
        for key, metric in METRICS.items():
            if key in last:
                teacher_value = metric.text(self.teacher[key]) if key in self.teacher else ""
                table.add_row(metric.label, teacher_value, metric.text(last[key]))
        return table


def distill(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    report: bool = True,
) -> RunResult:
    """Train a student as configured and save it in ``out/student``.

    ``resume`` continues from the newest complete checkpoint in ``out`` with the same losses as the
    uninterrupted run; a run that was killed before its first checkpoint starts over. Without
    ``report`` no page is written. No other process may work in ``out`` at the same time. Raises
    TinyClipError and its subclasses; InterruptedRun after SIGINT or SIGTERM, once a checkpoint is
    written.

    Called in every process of a launcher (torchrun, accelerate), it divides ``optim.batch_size``
    among them: each computes its part of the batch, the loss covers the whole batch, and only the
    first process evaluates, writes and notifies the observer. Since seed and step determine a
    batch, a run can continue with another number of processes; its losses then differ by rounding.
    To resume, ``out`` must be the same folder for all of them.
    """
    folder = RunFolder(Path(out), config)
    watcher: Observer = Silent() if observer is None else observer
    with folder.held(resume=resume):
        setup, start, inherited = _start(folder, watcher, resume=resume)
        setup.distributed.on_main(folder.create)
        if setup.kept_tokens is not None:
            tokens = setup.kept_tokens
            setup.distributed.on_main(lambda: tokens.save(folder.vocabulary))
        main_watcher = watcher if setup.distributed.main else Silent()
        began = time.perf_counter()
        command = f"tinyclip-edge distill --resume {folder.path}"
        result = train(folder, setup, start, main_watcher, resume_command=command)
        if report:
            setup.distributed.on_main(lambda: _write_report(folder, setup, main_watcher))
    return RunResult(
        out=folder.path,
        student=folder.student,
        steps=setup.stages[-1].end,
        seconds=time.perf_counter() - began,
        skipped_steps=result.skipped_steps,
        inherited=inherited,
        evaluations=result.evaluations,
        teacher=result.teacher,
    )


def _start(
    folder: RunFolder, observer: Observer, *, resume: bool
) -> tuple[Setup, RunStart, InheritanceReport | None]:
    # A separate function, so that the first student is freed after its stage.
    previous = folder.vocabulary if resume and folder.checkpoints.steps() else None
    vocabulary = None if folder.config.student.vocab is None else previous
    setup, first = load_setup(folder.config, observer, fill=True, vocabulary=vocabulary)
    main_observer = observer if setup.distributed.main else Silent()
    start = start_run(setup, first, folder, main_observer, resume=resume)
    return setup, start, first.inherited


def _write_report(folder: RunFolder, setup: Setup, observer: Observer) -> None:
    from tinyclip_edge.report import write_final_report

    write_final_report(folder.path, observer.on_message, plots=setup.shrinks)
