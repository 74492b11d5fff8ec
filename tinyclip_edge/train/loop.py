"""The training loop: batches in, steps, evaluations and checkpoints out.

It knows nothing of student or teacher, only a run whose task turns a batch into named loss terms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import Batch
from tinyclip_edge.errors import InterruptedRun, TinyClipError, one_line
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.memory import enough_memory, peak_bytes
from tinyclip_edge.train.monitoring.events import EventLog, Observer, StepReport
from tinyclip_edge.train.optimizer import OptimizerStep
from tinyclip_edge.train.running_statistics import RunningStatistics
from tinyclip_edge.train.signals import StopSignal
from tinyclip_edge.train.tasks.distill_task import Terms

STOPPED, FAILED = 1, 2  # status of a process that has no next batch


class TrainableTask(Protocol):
    """A task as the loop trains it."""

    def train(self) -> None:
        """Enter training mode."""

    def terms(self, batch: Batch) -> Terms:
        """Return the loss of a batch and its parts."""


class TrainingState(Protocol):
    """A task and its optimizer."""

    def after_step(self) -> None:
        """Update what depends on the weights, such as their average."""

    @property
    def student(self) -> LoadedClip:
        """The model in training."""

    @property
    def label(self) -> dict[str, int]:
        """The stage label of events."""

    @property
    def task(self) -> TrainableTask:
        """The task to train."""

    @property
    def optimizer_step(self) -> OptimizerStep:
        """Optimizer and schedule."""


class Run(Protocol):
    """A run that the loop drives from state to state."""

    @property
    def state(self) -> TrainingState:
        """The current training state."""

    def advance(self, done: int) -> bool:
        """Change the state if that is due after ``done`` steps; return whether it changed."""

    def evaluate(self, step: int) -> None:
        """Evaluate after ``step`` steps."""

    def save(self, step: int) -> None:
        """Write a checkpoint after ``step`` steps."""


@dataclass(slots=True)
class ThroughputMeter:
    """Speed of steps since the last report, and the share of time spent waiting for data."""

    samples: int = 0
    wait_seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def count(self, samples: int) -> None:
        """Add the samples of a step."""
        self.samples += samples

    def wait(self, seconds: float) -> None:
        """Add time spent waiting for data."""
        self.wait_seconds += seconds

    def read(self) -> tuple[float, float]:
        """Return samples/s and the share of time spent waiting for data, and restart."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rates = (self.samples / seconds, min(1.0, self.wait_seconds / seconds))
        self.restart()
        return rates

    def restart(self) -> None:
        """Start a new measurement."""
        self.samples, self.wait_seconds, self.since = 0, 0.0, time.perf_counter()


@dataclass(slots=True)
class Loop:
    """The steps of one run, limited by number, never by wall time."""

    config: RunConfig
    steps: int  # of all stages
    run: Run
    observer: Observer
    events: EventLog
    resume_command: str
    distributed: DistributedContext = field(default_factory=DistributedContext)
    meter: ThroughputMeter = field(default_factory=ThroughputMeter)
    began: float = field(default_factory=time.perf_counter)
    _statistics: RunningStatistics | None = None

    def train(self, batches: Iterator[Batch], start: int) -> None:
        """Run the steps from ``start``, the number of finished steps, to the last one.

        Raises InterruptedRun, after writing a checkpoint, on a stop signal.
        """
        steps, settings = self.steps, self.config.run
        with StopSignal(patient=self.distributed.count > 1) as stop:
            if start == 0:
                self._evaluate(0)
                self.run.save(0)
            self.run.state.task.train()
            self.meter.restart()
            last_save = start
            for done in range(start + 1, steps + 1):
                batch = self._next(batches, stop)
                if batch is None:
                    self._stop(done - 1, last_save)
                self._step(batch, done)
                if self.run.advance(done):
                    self.run.state.task.train()
                    self._save(done)
                    last_save = done
                    continue
                if done == steps or (settings.eval_every and done % settings.eval_every == 0):
                    self._evaluate(done)
                if done == steps or (settings.save_every and done % settings.save_every == 0):
                    self._save(done)
                    last_save = done
            if self.distributed.all_reduce_max(int(stop.received)):
                self._stop(steps, last_save)

    def _next(self, batches: Iterator[Batch], stop: StopSignal) -> Batch | None:
        """Return the next batch; None on all processes once one of them has received a signal.

        Raises the error of any process.
        """
        before = time.perf_counter()
        batch: Batch | None = None
        error: TinyClipError | None = None
        if not stop.received:
            try:
                batch = next(batches)
            except TinyClipError as fault:
                error = fault
        self.meter.wait(time.perf_counter() - before)
        status = self.distributed.all_reduce_max(
            FAILED if error is not None else STOPPED if batch is None else 0
        )
        if status == FAILED:
            self.distributed.fail(error)
        return None if status else batch

    def _step(self, batch: Batch, done: int) -> None:
        state = self.run.state
        statistics = self._running_statistics()
        statistics.save()
        with enough_memory(self.config, done):
            terms = state.task.terms(batch)
            norm = state.optimizer_step.step(terms.loss, done - 1, terms.after_backward)
        if norm is None:
            statistics.restore()  # before an average copies them
            self._report_skipped(done, batch)
        state.after_step()
        self.meter.count(len(batch.keys) * self.distributed.count)
        self._report(done, terms, norm)

    def _running_statistics(self) -> RunningStatistics:
        """Return the running statistics of the current student."""
        model = self.run.state.student.model
        if self._statistics is None or self._statistics.model is not model:
            self._statistics = RunningStatistics(model)
        return self._statistics

    def _report(self, done: int, terms: Terms, norm: float | None) -> None:
        steps, every = self.steps, self.config.run.log_every
        speed, wait = self.meter.read()
        values = terms.values()
        if norm is not None:
            values["grad_norm"] = norm
        lr = self.run.state.optimizer_step.lr(done - 1)
        report = StepReport(
            done, steps, values, lr, samples_per_s=speed, data_wait=wait, peak_bytes=peak_bytes()
        )
        if done % every == 0 or done in (1, steps):
            self.events.write(
                "step",
                step=done,
                **self.run.state.label,
                **values,
                lr=lr,
                samples_per_s=speed,
                data_wait=wait,
                peak_bytes=report.peak_bytes,
            )
        self.observer.on_step(report)

    def _report_skipped(self, done: int, batch: Batch) -> None:
        keys = [one_line(key) for share in self.distributed.all_gather(batch.keys) for key in share]
        self.events.write("skipped", step=done, keys=keys)
        skipped = self.run.state.optimizer_step.skipped
        self.observer.on_message(
            f"step {done} skipped: loss or gradient not finite ({skipped:,} so far)"
        )

    def _evaluate(self, done: int) -> None:
        self.run.evaluate(done)
        self.meter.restart()

    def _save(self, done: int) -> None:
        self.run.save(done)
        self.meter.restart()

    def _stop(self, done: int, last_save: int) -> NoReturn:
        if done != last_save:
            self.run.save(done)
        seconds = time.perf_counter() - self.began
        self.events.write("run_end", step=done, status="interrupted", seconds=seconds)
        raise InterruptedRun(
            f"stopped after step {done}, checkpoint written; continue with: {self.resume_command}"
        )
