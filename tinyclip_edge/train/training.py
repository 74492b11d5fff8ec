"""A training run in its folder: start or resume, evaluate, save, log.

Distillation and quantization-aware training both run through :func:`train`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch

from tinyclip_edge.config import flatten
from tinyclip_edge.data import Prefetch
from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.models import LoadedClip, count_parameters, save_local_dir, weights_hash
from tinyclip_edge.run_events import iterate_events
from tinyclip_edge.train.batches import StreamPositions, gathered, open_feed
from tinyclip_edge.train.best import Best
from tinyclip_edge.train.checkpoint import Checkpoint, Position, rng_state
from tinyclip_edge.train.loop import Loop
from tinyclip_edge.train.monitoring.events import EventLog, Observer, Silent, rewind_events
from tinyclip_edge.train.monitoring.trackers import Tracked
from tinyclip_edge.train.monitoring.versions import installed_versions
from tinyclip_edge.train.resume import RunStart
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.setup import Setup
from tinyclip_edge.train.stages.log import StageLog
from tinyclip_edge.train.stages.machine import StageMachine, Transition
from tinyclip_edge.train.stages.state import StageState
from tinyclip_edge.train.tasks.mask_task import MaskedTask

CHANGES = (Transition.PRUNE, Transition.FOLD, Transition.NEXT_STAGE)
Accuracies = dict[str, float]  # shares by name, see validation.accuracies


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Measurements of a run; with several processes, only the first one has them."""

    student: LoadedClip
    skipped_steps: int
    evaluations: dict[int, Accuracies]  # of the student by step, in this call
    teacher: Accuracies  # empty if not measured


@dataclass(slots=True)
class TrainingRun:
    """The run that the loop drives: its stages, evaluations and checkpoints."""

    folder: RunFolder
    setup: Setup
    machine: StageMachine
    feed: Prefetch
    events: EventLog
    observer: Observer
    best: Best | None  # None: no best student is saved, and the teacher is not measured
    evaluations: dict[int, Accuracies] = field(default_factory=dict)
    teacher: Accuracies = field(default_factory=dict)

    @property
    def state(self) -> StageState:
        """The current student, task and optimizer."""
        return self.machine.state

    def advance(self, done: int) -> bool:
        """Prune, fold, or start the next stage, when due; return whether the state changed."""
        log = StageLog(self.events, self.observer)
        transition = self.machine.due(done)
        log.gates(self.state, done, transition, self.setup.config.masks.log_every)
        if transition is Transition.PRUNE:
            self._prune(log, done)
            self.evaluate(done)
        elif transition is Transition.FOLD:
            log.folded(self.state, done)
            self.machine.fold()
            self.evaluate(done)
        elif transition is Transition.NEXT_STAGE:
            self.evaluate(done)
            self.machine.next_stage()
            log.stage_begins(self.state, done)
            if self.state.inherited is not None:
                log.inherited(self.state.inherited, self.state, done)
                teacher = self.setup.teacher_clip
                self.setup.distributed.on_main(lambda: log.probes(teacher, self.state, done))
                self.evaluate(done)
        return transition in CHANGES

    def evaluate(self, step: int) -> None:
        """Measure the student on the validation pairs, and at step 0 also the teacher of a run."""
        self.setup.distributed.on_main(lambda: self._evaluate(step))

    def save(self, step: int) -> None:
        """Write a checkpoint."""
        stream = gathered(self.feed, step, self.setup.distributed)
        self.setup.distributed.on_main(lambda: self._save(step, stream))

    def _prune(self, log: StageLog, done: int) -> None:
        task = self.state.task
        assert isinstance(task, MaskedTask)
        result = self.machine.prune(done)
        log.pruned(task, result, self.state, done)

    def _evaluate(self, step: int) -> None:
        validation, task = self.setup.validation, self.state.task
        if validation is None:
            return
        if step == 0 and self.best is not None:
            self.teacher.update(task.teacher.measure(validation))
            self.events.write("eval", step=0, who="teacher", **self.teacher)
            self.observer.on_eval(0, "teacher", self.teacher)
        metrics = validation.measure(self.state.encoder, self.state.result)
        self.evaluations[step] = metrics
        self.events.write("eval", step=step, who="student", **self.state.label, **metrics)
        self.observer.on_eval(step, "student", metrics)
        if self.best is not None and self.machine.has_final_shape:
            self.best.consider(step, metrics, self.state.result)

    def _save(self, step: int, stream: StreamPositions | None) -> None:
        setup, state = self.setup, self.state
        optimizer_step, scaler = state.optimizer_step, setup.accelerator.scaler
        self.events.flush()  # a checkpoint must not be on disk before the events that led to it
        # Features first: a checkpoint never exists without those that its next steps reuse.
        if setup.features is not None:
            setup.features.save(self.folder.features)
        self.folder.checkpoints.save(
            Checkpoint(
                Position(
                    step=step,
                    skipped=optimizer_step.skipped,
                    skipped_in_a_row=optimizer_step.skipped_in_a_row,
                    teacher=setup.teacher_hash,
                    data=setup.data_hash,
                    config=flatten(self.folder.config),
                    stage=state.stage.number,
                    pruned=state.pruned,
                    processes=setup.distributed.count,
                    recipe=setup.recipe,
                ),
                weights=state.student.model.state_dict(),
                optimizer=optimizer_step.optimizer.state_dict(),
                scaler=None if scaler is None else scaler.state_dict(),
                rng=rng_state(),
                beside=state.beside.state_dict(),
                stream=stream,
            )
        )
        _log_checkpoint(self.folder, self.events, step)


def train(
    folder: RunFolder,
    setup: Setup,
    start: RunStart,
    observer: Observer,
    *,
    resume_command: str,
    is_finetune: bool = False,
) -> TrainingResult:
    """Run all steps after ``start``.

    A run measures its teacher, saves its best student, and leaves the last one in ``student/``;
    with ``is_finetune`` it does none of these. Raises InterruptedRun, once a checkpoint is written,
    after SIGINT or SIGTERM.
    """
    began = time.perf_counter()
    distributed, machine = setup.distributed, start.machine
    distributed.on_main(lambda: rewind_events(folder.events, start.step, observer.on_message))
    path = folder.events if distributed.main else Path(os.devnull)
    tracked = Tracked(
        observer if distributed.main else Silent(), folder.config, folder.path, start.step
    )
    with EventLog(path) as events, tracked as watcher:
        if distributed.main:
            _complete_log(folder, events, start.step)
        _log_start(setup, machine.state, events, watcher, start.step)
        if not start.step and not is_finetune:
            log = StageLog(events, watcher)
            distributed.on_main(lambda: log.probes(setup.teacher_clip, machine.state, 0))
        best = None if is_finetune else Best(folder, events)
        try:
            with open_feed(setup.config, setup, start.step, start.stream) as feed:
                run = TrainingRun(folder, setup, machine, feed, events, watcher, best)
                steps = setup.stages[-1].end
                loop = Loop(setup.config, steps, run, watcher, events, resume_command, distributed)
                loop.train(feed, start.step)
        except TinyClipError:
            _report_skipped_images(setup, watcher)
            raise
        _report_skipped_images(setup, watcher)
        for stream in setup.pairs.streams:
            stream.final_check()  # a short stream may end before its regular check
        student = machine.state.result
        if not is_finetune:
            distributed.on_main(lambda: save_local_dir(folder.student, student))
        seconds, digest = time.perf_counter() - began, weights_hash(student.model)
        events.write("run_end", step=steps, status="done", seconds=seconds, student_sha256=digest)
    skipped = machine.state.optimizer_step.skipped
    return TrainingResult(student, skipped, run.evaluations, run.teacher)


def _complete_log(folder: RunFolder, events: EventLog, start: int) -> None:
    """Log the checkpoint from which a run is resumed, if it was killed before logging it."""
    if not start:
        return
    logged = False
    for event in iterate_events(folder.events):
        logged = True
        if (event["kind"], event["step"]) == ("checkpoint", start):
            return
    if logged:
        _log_checkpoint(folder, events, start)


def _log_checkpoint(folder: RunFolder, events: EventLog, step: int) -> None:
    path = folder.checkpoints.path(step).relative_to(folder.path)
    events.write("checkpoint", step=step, path=str(path))


def _log_start(
    setup: Setup, state: StageState, events: EventLog, observer: Observer, start: int
) -> None:
    count = count_parameters(state.student.model)
    teacher = count_parameters(setup.teacher_clip.model)
    inherited = state.inherited
    events.write(
        "run_start",
        step=start,
        steps=setup.stages[-1].end,
        teacher=setup.teacher_clip.name,
        teacher_sha256=setup.teacher_hash,
        teacher_encoder_parameters=teacher.encoders,
        teacher_token_parameters=teacher.token_embedding,
        student=state.student.name,
        encoder_parameters=count.encoders,
        token_parameters=count.token_embedding,
        inherited_parameters=0 if inherited is None else inherited.inherited_parameters,
        device=str(setup.accelerator.device),
        threads=torch.get_num_threads(),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=installed_versions(),
    )
    if start:
        observer.on_message(f"continuing after step {start}")
        return
    log = StageLog(events, observer)
    if setup.shrinks:
        log.stage_begins(state, 0)
    if inherited is not None:
        log.inherited(inherited, state, 0)


def _report_skipped_images(setup: Setup, observer: Observer) -> None:
    """Report undecodable images of a stream; others were reported when loaded."""
    for stream in setup.pairs.streams:
        stream.add_up(setup.distributed.all_gather(stream.counted))
        for line in stream.skipped():
            observer.on_message(line)
