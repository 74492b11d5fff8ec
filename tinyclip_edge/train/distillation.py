"""Distil a student from a teacher: one call from configuration to run folder."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch

from tinyclip_edge.config import RunConfig, flatten
from tinyclip_edge.data import StreamingPairs
from tinyclip_edge.errors import ModelError, TinyClipError
from tinyclip_edge.inheritance import InheritanceReport
from tinyclip_edge.models import count_parameters, save_local_dir, weights_hash
from tinyclip_edge.run_events import read_events
from tinyclip_edge.train.batches import StreamPositions, gathered, open_feed
from tinyclip_edge.train.best import Best
from tinyclip_edge.train.builder import Setup, order_hash, prepare
from tinyclip_edge.train.checkpoint import (
    Checkpoint,
    Position,
    restore_rng,
    restore_scaler,
    rng_state,
)
from tinyclip_edge.train.loop import Loop
from tinyclip_edge.train.monitoring.events import (
    EventLog,
    Observer,
    Silent,
    rewind_events,
)
from tinyclip_edge.train.monitoring.trackers import Tracked
from tinyclip_edge.train.monitoring.versions import installed_versions
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.stages.state import StageState
from tinyclip_edge.train.stages.transition import StageTransition
from tinyclip_edge.train.tasks.mask_task import MaskedTask

# By how much a loss moves within 20 steps when features round otherwise; see tests/distributed.
ROUNDING = 2e-5


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished run left behind; accuracies are shares, see validation.accuracies.

    Of several processes the first one knows the accuracies.
    """

    out: Path
    student: Path  # open_clip local-dir
    steps: int
    seconds: float  # of this call
    skipped_steps: int  # loss or gradient not finite
    inherited: InheritanceReport | None
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)  # by step, of this call
    teacher: dict[str, float] = field(default_factory=dict)  # the teacher on the same pairs


def distill(
    config: RunConfig, out: Path, *, resume: bool = False, observer: Observer | None = None
) -> RunResult:
    """Train a student as configured and leave it in ``out/student``.

    ``resume`` goes on from the newest whole checkpoint in ``out`` with the same losses that the
    uninterrupted run would have had; a run that was killed before its first one begins again.
    Nobody else may work in ``out`` at the same time. Raises TinyClipError and its kinds;
    InterruptedRun after SIGINT or SIGTERM, once a checkpoint is written.

    Called in every process of a launcher (torchrun, accelerate), it shares ``optim.batch_size``
    among them: each runs its part of the batch, the loss is that of the whole one, and the first
    process alone evaluates, writes and tells the observer. As a step's batch follows from seed and
    step, a run may go on with another number of processes; its losses then differ by rounding.
    ``out`` must be the same folder for all of them to resume.
    """
    folder = RunFolder(Path(out), config)
    watcher: Observer = Silent() if observer is None else observer
    with folder.held(resume=resume):
        # Not kept here: the first student and its optimizer state end with their stage.
        run = _Run(folder, *prepare(config, watcher, fill=True), watcher)
        start = run.restore() if resume else 0
        run.ranks.on_main(folder.create)
        return run.go(start)


class _Run:
    """A prepared run in its folder: evaluates, saves, finishes."""

    def __init__(
        self, folder: RunFolder, setup: Setup, first: StageState, observer: Observer
    ) -> None:
        self.folder = folder
        self.config = folder.config
        self.setup = setup
        self.ranks = setup.ranks
        self.observer = observer if setup.ranks.main else Silent()
        self.work = first
        self.inherited = first.inherited
        self.evaluations: dict[int, dict[str, float]] = {}
        self.teacher: dict[str, float] = {}
        self.stream: StreamPositions | None = None  # where a stream is to go on

    def go(self, start: int) -> RunResult:
        began = time.perf_counter()
        steps = self.setup.stages[-1].end
        self.ranks.on_main(
            lambda: rewind_events(self.folder.events, start, self.observer.on_message)
        )
        log = self.folder.events if self.ranks.main else Path(os.devnull)
        watched = Tracked(self.observer, self.config, self.folder.path, start)
        with EventLog(log) as events, watched as self.observer:
            self.events = events
            self._complete_log(start)
            self.best = Best(self.folder, events, self.setup.stages[-1].number)
            self._tell_start(start)
            advance = StageTransition(
                self.folder,
                self.setup.stages,
                self.setup.workshop,
                self.ranks,
                events,
                self.observer,
            )
            loop = Loop(
                self.config,
                steps,
                lambda: self.work,
                lambda done: self._turn(advance, done),
                self.observer,
                events,
                evaluate=self._evaluate,
                save=self._save,
                resume_command=f"tinyclip-edge distill --resume {self.folder.path}",
                ranks=self.ranks,
            )
            if start == 0:
                if self.setup.shrinks:
                    advance.tell_stage(self.work, 0)
                if self.work.inherited is not None:
                    advance.tell_inherited(self.work.inherited, self.work, 0)
            self._train(loop, start)
            self.ranks.on_main(self._leave_student)
            seconds = time.perf_counter() - began
            digest = weights_hash(self.work.student.model)
            events.write(
                "run_end", step=steps, status="done", seconds=seconds, student_sha256=digest
            )
        self.ranks.on_main(self._report)
        return RunResult(
            out=self.folder.path,
            student=self.folder.student,
            steps=steps,
            seconds=seconds,
            skipped_steps=self.work.updater.skipped,
            inherited=self.inherited,
            evaluations=self.evaluations,
            teacher=self.teacher,
        )

    def _train(self, loop: Loop, start: int) -> None:
        """Run the loop over its batches; images that cannot be read are told and judged."""
        try:
            with open_feed(self.config, self.setup, start, self.stream) as self.feed:
                loop.run(self.feed, start)
        except TinyClipError:
            self._tell_skipped_images()
            raise
        self._tell_skipped_images()
        self._check_images()

    def _turn(self, advance: StageTransition, done: int) -> bool:
        """Prune, or go on to the next stage, when it is time; True when the work is another."""
        after = advance.turn(self.work, done, self._evaluate)
        if after is None:
            return False
        self.work = after
        if after.inherited is not None or after.pruned is not None:
            self._evaluate(done)
        return True

    def _report(self) -> None:
        from tinyclip_edge.report import write_final_report

        write_final_report(self.folder.path, self.observer.on_message, plots=self.setup.shrinks)

    def _leave_student(self) -> None:
        save_local_dir(self.folder.student, self.work.student)

    def restore(self) -> int:
        """Load the newest whole checkpoint; return its step, 0 where there is none yet."""
        setup = self.setup
        with self.ranks.agreed():
            found = self.folder.newest(
                self.observer.on_message,
                teacher=setup.teacher.name,
                teacher_hash=setup.teacher_hash,
                recipe=setup.recipe,
                data_hash=setup.data_hash,
                order_hash=order_hash(setup.pairs),
            )
        if found is None:
            self.observer.on_message("no checkpoint yet: the run begins at step 0")
            return 0
        try:
            self._take(found)
        except ModelError as error:
            raise ModelError(f"cannot resume {self.folder.path}: {error}") from error
        self._take_features(found.position)
        return found.position.step

    def _take(self, found: Checkpoint) -> None:
        """Take over a checkpoint; ModelError when it does not fit the run."""
        setup, position = self.setup, found.position
        if position.stage > len(setup.stages):
            raise ModelError(f"its checkpoint is of stage {position.stage}, which there is none of")
        if position.stage > 1 or position.pruned is not None:
            stage = setup.stages[position.stage - 1]
            self.work = setup.workshop.again(stage, position.pruned, self.folder)
        work = self.work
        found.apply(work.student.model, work.updater.optimizer, work.task.beside)
        if setup.accelerator.scaler is not None and found.scaler is not None:
            restore_scaler(setup.accelerator.scaler, found.scaler)
        work.updater.skipped = position.skipped
        work.updater.skipped_in_a_row = position.skipped_in_a_row
        if isinstance(work.task, MaskedTask):
            work.task.done = position.step - work.stage.began
        restore_rng(found.rng)
        self.stream = found.stream

    def _take_features(self, position: Position) -> None:
        """Take over the teacher's features; those that are lost are computed as they were."""
        setup = self.setup
        fault = setup.take_features(self.folder.features)
        if setup.features is None or fault is None:
            return
        if not setup.features.filled:
            setup.take_cache(self.observer)
        at_once = "run.micro_batch"
        alike = (
            position.processes == self.ranks.count
            and position.config.get(at_once) == flatten(self.config)[at_once]
        )
        curve = (
            "in the batches of the run, so that its losses stay the same"
            if alike
            else f"with other processes or {at_once} than before: losses may differ by {ROUNDING:g}"
        )
        self.observer.on_message(f"teacher features {fault}: computed again {curve}")
        setup.compute_features(position.step)

    def _complete_log(self, start: int) -> None:
        """Log the checkpoint that the run goes on from, if a kill came between it and its line."""
        events = read_events(self.folder.events) if start and self.ranks.main else []
        if events and ("checkpoint", start) not in {(e["kind"], e["step"]) for e in events}:
            self._tell_checkpoint(start)

    def _tell_start(self, start: int) -> None:
        setup = self.setup
        count = count_parameters(self.work.student.model)
        whole = count_parameters(setup.teacher.model)
        report = self.inherited
        self.events.write(
            "run_start",
            step=start,
            steps=setup.stages[-1].end,
            teacher=setup.teacher.name,
            teacher_sha256=setup.teacher_hash,
            teacher_encoder_parameters=whole.encoders,
            teacher_token_parameters=whole.token_embedding,
            student=self.work.student.name,
            encoder_parameters=count.encoders,
            token_parameters=count.token_embedding,
            inherited_parameters=0 if report is None else report.inherited_parameters,
            device=str(setup.accelerator.device),
            threads=torch.get_num_threads(),
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=installed_versions(),
        )
        if start:
            self.observer.on_message(f"going on after step {start}")

    def _tell_skipped_images(self) -> None:
        """Pairs in memory were reported when they were loaded."""
        pairs = self.setup.pairs
        if isinstance(pairs, StreamingPairs):
            pairs.add_up(self.ranks.tell(pairs.counted))
            for line in pairs.skipped():
                self.observer.on_message(line)

    def _check_images(self) -> None:
        """A stream too short for its running check is judged here; DataError."""
        if isinstance(self.setup.pairs, StreamingPairs):
            self.setup.pairs.final_check()

    def _evaluate(self, step: int) -> None:
        self.ranks.on_main(lambda: self._measure(step))

    def _measure(self, step: int) -> None:
        validation, task = self.setup.validation, self.work.task
        if validation is None:
            return
        if step == 0:
            self.teacher = task.teacher.measure(validation)
            self.events.write("eval", step=0, who="teacher", **self.teacher)
            self.observer.on_eval(0, "teacher", self.teacher)
        metrics = validation.measure(task.encoder, self.work.student)
        self.evaluations[step] = metrics
        self.events.write("eval", step=step, who="student", **self.work.label, **metrics)
        self.observer.on_eval(step, "student", metrics)
        self.best.consider(step, metrics, self.work)

    def _save(self, step: int) -> None:
        stream = gathered(self.feed, step, self.ranks)
        self.ranks.on_main(lambda: self._write(step, stream))

    def _write(self, step: int, stream: StreamPositions | None) -> None:
        setup, work, updater = self.setup, self.work, self.work.updater
        scaler = setup.accelerator.scaler
        self.events.flush()  # what a checkpoint follows from is on the disk before it
        # Features first: a checkpoint never stands without those that its next steps reuse.
        if setup.features is not None:
            setup.features.save(self.folder.features)
        self.folder.checkpoints.save(
            Checkpoint(
                Position(
                    step=step,
                    skipped=updater.skipped,
                    skipped_in_a_row=updater.skipped_in_a_row,
                    teacher=setup.teacher_hash,
                    data=setup.data_hash,
                    config=flatten(self.config),
                    stage=work.stage.number,
                    pruned=work.pruned,
                    processes=self.ranks.count,
                    recipe=setup.recipe,
                ),
                weights=work.student.model.state_dict(),
                optimizer=updater.optimizer.state_dict(),
                scaler=None if scaler is None else scaler.state_dict(),
                rng=rng_state(),
                beside=work.task.beside.state_dict(),
                stream=stream,
            )
        )
        self._tell_checkpoint(step)

    def _tell_checkpoint(self, step: int) -> None:
        path = self.folder.checkpoints.path(step).relative_to(self.folder.path)
        self.events.write("checkpoint", step=step, path=str(path))
