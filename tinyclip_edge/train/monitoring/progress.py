"""Progress of a run on stderr: a bar with loss, KL, speed and time left, and evaluations."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tinyclip_edge.config.loss import LOSS_TERMS, OTHER_LOSSES
from tinyclip_edge.errors import one_line
from tinyclip_edge.metrics import METRICS, PROGRESS
from tinyclip_edge.train.monitoring.events import StepReport

MIN_WAIT = 0.05  # share of time spent waiting for data above which it is shown
LINES = 10  # number of progress lines in a run without a progress bar


class ProgressObserver:
    """Observer that draws on stderr; use it as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("distil"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[status]}"),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressObserver:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._bar.stop()

    def on_step(self, report: StepReport) -> None:
        """Move the bar; without a terminal, write a line for each tenth of the run."""
        status = _status(report)
        if not self._console.is_terminal:
            if report.step == report.steps or report.step % max(1, report.steps // LINES) == 0:
                self._print(f"step {report.step}/{report.steps}  {status}")
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=report.steps, status=status)
        self._bar.update(self._task, completed=report.step, status=status)

    def on_eval(self, step: int, who: str, metrics: Mapping[str, float]) -> None:
        """Write one line."""
        shown = (METRICS[key] for key in PROGRESS if key in metrics)
        figures = ", ".join(
            f"{metric.short} {metrics[metric.key]:.1%}"
            if metric.unit == "%"
            else f"{metric.short} {metric.text(metrics[metric.key])}"
            for metric in shown
        )
        label = "teacher" if who == "teacher" else f"student, step {step}"
        self._print(f"{label}: {figures}")

    def on_message(self, text: str) -> None:
        """Write one line."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(one_line(text), markup=False, emoji=False, soft_wrap=True)


def _status(report: StepReport) -> str:
    terms = [
        f"{name} {report.values[name]:.3g}"
        for name in (*LOSS_TERMS, *OTHER_LOSSES)
        if name in report.values
    ]
    terms_text = f" ({', '.join(terms)})" if len(terms) > 1 else ""
    parts = [f"loss {report.values['loss']:.3f}{terms_text}"]
    if "kl" in report.values:
        parts.append(f"KL to teacher {report.values['kl']:.3f}")
    parts.append(f"{report.samples_per_s:.0f} samples/s")
    if report.data_wait >= MIN_WAIT:
        parts.append(f"{report.data_wait:.0%} waiting for data")
    if report.peak_bytes:
        parts.append(f"peak {report.peak_bytes / 1e9:.1f} GB")
    return "  ".join(parts)
