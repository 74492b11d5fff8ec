"""The training loop: batches in, steps, evaluations and checkpoints out.

It knows neither student nor teacher, only a task that turns a batch into named loss terms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import Batch
from tinyclip_edge.errors import InterruptedRun, TinyClipError, one_line
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.memory import enough_memory, peak_bytes
from tinyclip_edge.train.monitoring.events import EventLog, Observer, StepReport
from tinyclip_edge.train.optimizer import OptimizerStep
from tinyclip_edge.train.signals import StopSignal
from tinyclip_edge.train.tasks.distill_task import Terms

STOPPED, FAILED = 1, 2  # what a process may answer instead of a batch


class TrainableTask(Protocol):
    """What is trained."""

    def train(self) -> None:
        """Enter training mode."""

    def terms(self, batch: Batch) -> Terms:
        """Return the loss of a batch and its parts."""

    def after_step(self) -> None:
        """Bring weights back into their range."""


class TrainingState(Protocol):
    """A task and what updates it."""

    @property
    def label(self) -> dict[str, int]:
        """What events say of it."""

    @property
    def task(self) -> TrainableTask:
        """What is trained."""

    @property
    def updater(self) -> OptimizerStep:
        """Its optimizer and schedule."""


@dataclass(slots=True)
class Meter:
    """Time of steps and the part of it that waited for data, since the last report."""

    samples: int = 0
    waited: float = 0.0  # seconds
    since: float = field(default_factory=time.perf_counter)

    def read(self) -> tuple[float, float]:
        """Return samples/s and the share of time that waited for data; start anew."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rates = (self.samples / seconds, min(1.0, self.waited / seconds))
        self.restart()
        return rates

    def restart(self) -> None:
        """Forget what was counted."""
        self.samples, self.waited, self.since = 0, 0.0, time.perf_counter()


@dataclass(slots=True)
class Loop:
    """One run over its steps, bounded by their number and never by wall time."""

    config: RunConfig
    steps: int  # of all stages
    work: Callable[[], TrainingState]  # what is trained at the moment
    turn: Callable[[int], bool]  # told the steps done; True when it evaluated and exchanged work
    observer: Observer
    events: EventLog
    evaluate: Callable[[int], None]  # told the steps done; reports by itself
    save: Callable[[int], None]
    resume_command: str
    ranks: DistributedContext = field(default_factory=DistributedContext)
    meter: Meter = field(default_factory=Meter)
    began: float = field(default_factory=time.perf_counter)

    def run(self, batches: Iterator[Batch], start: int) -> None:
        """Go from ``start`` steps done to the last one.

        Raises InterruptedRun, after a checkpoint, when a signal asks to stop.
        """
        steps, run = self.steps, self.config.run
        with StopSignal(patient=self.ranks.count > 1) as stop:
            if start == 0:
                self._evaluate(0)
                self.save(0)
            self.work().task.train()
            self.meter.restart()
            saved = start
            for done in range(start + 1, steps + 1):
                batch = self._next(batches, stop)
                if batch is None:
                    self._stop(done - 1, saved)
                self._step(batch, done)
                if self.turn(done):
                    self.work().task.train()
                    self._save(done)
                    saved = done
                    continue
                if done == steps or (run.eval_every and done % run.eval_every == 0):
                    self._evaluate(done)
                if done == steps or (run.save_every and done % run.save_every == 0):
                    self._save(done)
                    saved = done
            if self.ranks.most(int(stop.received)):
                self._stop(steps, saved)

    def _next(self, batches: Iterator[Batch], stop: StopSignal) -> Batch | None:
        """Return the next batch, None on all processes when one was asked to stop.

        Raises the error of any process.
        """
        before = time.perf_counter()
        batch: Batch | None = None
        error: TinyClipError | None = None
        if not stop.received:
            try:
                batch = next(batches)
            except TinyClipError as caught:
                error = caught
        self.meter.waited += time.perf_counter() - before
        status = self.ranks.most(FAILED if error is not None else STOPPED if batch is None else 0)
        if status == FAILED:
            self.ranks.fail(error)
        return None if status else batch

    def _step(self, batch: Batch, done: int) -> None:
        work = self.work()
        with enough_memory(self.config, done):
            terms = work.task.terms(batch)
            norm = work.updater.step(terms.loss, done - 1, terms.after_backward)
        work.task.after_step()
        self.meter.samples += len(batch.keys) * self.ranks.count
        if norm is None:
            self._tell_skipped(done, batch)
        self._report(done, terms, norm)

    def _report(self, done: int, terms: Terms, norm: float | None) -> None:
        steps, every = self.steps, self.config.run.log_every
        speed, wait = self.meter.read()
        values = terms.values()
        if norm is not None:
            values["grad_norm"] = norm
        lr = self.work().updater.lr(done - 1)
        report = StepReport(
            done, steps, values, lr, samples_per_s=speed, data_wait=wait, peak_bytes=peak_bytes()
        )
        if done % every == 0 or done in (1, steps):
            self.events.write(
                "step",
                step=done,
                **self.work().label,
                **values,
                lr=lr,
                samples_per_s=speed,
                data_wait=wait,
                peak_bytes=report.peak_bytes,
            )
        self.observer.on_step(report)

    def _tell_skipped(self, done: int, batch: Batch) -> None:
        keys = [one_line(key) for share in self.ranks.tell(batch.keys) for key in share]
        self.events.write("skipped", step=done, keys=keys)
        skipped = self.work().updater.skipped
        self.observer.on_message(
            f"step {done} skipped: loss or gradient not finite ({skipped} so far)"
        )

    def _evaluate(self, done: int) -> None:
        self.evaluate(done)
        self.meter.restart()

    def _save(self, done: int) -> None:
        self.save(done)
        self.meter.restart()

    def _stop(self, done: int, saved: int) -> NoReturn:
        if done != saved:
            self.save(done)
        seconds = time.perf_counter() - self.began
        self.events.write("run_end", step=done, status="interrupted", seconds=seconds)
        raise InterruptedRun(
            f"stopped after step {done}, checkpoint written; go on with: {self.resume_command}"
        )
