"""What happens between two steps of a run of stages or masks: prune, wait, next stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tinyclip_edge.inheritance import InheritanceReport
from tinyclip_edge.models import LoadedClip, count_parameters, save_local_dir
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.monitoring.events import EventLog, Observer
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.schedule import Stage
from tinyclip_edge.train.stages.state import StageFactory, StageState
from tinyclip_edge.train.tasks.mask_task import MaskedTask


@dataclass(frozen=True, slots=True)
class StageTransition:
    """Decides after each step whether the work changes, and tells of it."""

    folder: RunFolder
    stages: Sequence[Stage]
    factory: StageFactory
    distributed: DistributedContext
    events: EventLog
    observer: Observer

    def turn(
        self, work: StageState, done: int, evaluate: Callable[[int], None]
    ) -> StageState | None:
        """Return the work to go on with after ``done`` steps, None when it stays as it is.

        A stage that ends is evaluated first. Raises ModelError when a student cannot be saved.
        """
        if isinstance(work.task, MaskedTask):
            every = self.folder.config.masks.log_every
            ripe = self._ripe(work, work.task, done)
            if ripe or work.task.done == 1 or work.task.done % every == 0:
                self.events.write(
                    "gates", step=done, stage=work.stage.number, **work.task.picture()
                )
            return self._prune(work, work.task, done) if ripe else None
        last = self.stages[-1].number
        if done < work.stage.end or work.stage.number == last:
            return None
        evaluate(done)
        return self._next(work, done)

    def tell_stage(self, work: StageState, done: int) -> None:
        """Write down that a stage begins."""
        stage = work.stage
        shape = f"keep {stage.keep:g}" if stage.keep is not None else "a given shape"
        count = count_parameters(work.student.model)
        self.events.write(
            "stage",
            step=done,
            stage=stage.number,
            stages=len(self.stages),
            keep=stage.keep,
            steps=stage.optim.steps,
            lr=stage.optim.lr,
            encoder_parameters=count.encoders,
            token_parameters=count.token_embedding,
        )
        self.observer.on_message(
            f"stage {stage.number} of {len(self.stages)}: {shape}, {stage.optim.steps} steps "
            f"from {count.encoders:,} encoder parameters"
        )

    def tell_inherited(self, report: InheritanceReport, work: StageState, done: int) -> None:
        """Write down what the student of a stage took over."""
        parts = {"image": report.image, "text": report.text, "shared": report.shared}
        self.events.write(
            "inherit",
            step=done,
            stage=work.stage.number,
            method=report.method,
            parameters={name: tower.parameters for name, tower in parts.items()},
            taken=None if report.taken is None else asdict(report.taken),
            notes=report.notes,
        )
        for line in report.lines():
            self.observer.on_message(line)

    def _ripe(self, work: StageState, task: MaskedTask, done: int) -> bool:
        """Say whether it is time to prune: the target is met, or waiting longer is not allowed."""
        steps, tolerance = task.steps, self.folder.config.masks.tolerance
        if task.done < steps.prune:
            return False
        late = task.done >= steps.prune + steps.wait
        if task.settle(tolerance) or late:
            return True
        if task.done == steps.prune:
            kept = task.size()
            self.events.write(
                "wait", step=done, stage=work.stage.number, kept=kept, keep=task.keep,
                until=done + steps.wait,
            )  # fmt: skip
            self.observer.on_message(
                f"step {done}: masks would keep {kept:.1%} instead of {task.keep:.1%}; the prune "
                f"waits up to {steps.wait} steps"
            )
        return False

    def _prune(self, work: StageState, task: MaskedTask, done: int) -> StageState:
        after, result = self.factory.prune(work, done)
        self._leave(self.folder.pruned(work.stage.number), after.student)
        kept = 1 - result.sparsity
        met = abs(kept - task.keep) <= self.folder.config.masks.tolerance
        count = count_parameters(after.student.model)
        units = result.plan.after
        self.events.write(
            "prune", step=done, stage=work.stage.number, kept=kept, keep=task.keep, met=met,
            shift=task.shift,
            parameters_before=result.parameters_before, parameters_after=result.parameters_after,
            encoder_parameters=count.encoders, token_parameters=count.token_embedding,
            image=asdict(units.image), text=asdict(units.text),
        )  # fmt: skip
        cure = "prune later (masks.prune, masks.extra) or raise" if kept > task.keep else "lower"
        told = "" if met else f"; the target of {task.keep:.1%} was missed: {cure} masks.lr"
        self.observer.on_message(
            f"step {done}: pruned to {kept:.1%} of the teacher's prunable parameters, "
            f"{count.encoders:,} in both towers{told}"
        )
        return after

    def _next(self, work: StageState, done: int) -> StageState:
        self._leave(self.folder.stage_student(work.stage.number), work.student)
        after = self.factory.next(self.stages[work.stage.number], work)
        self.tell_stage(after, done)
        if after.inherited is not None:
            self.tell_inherited(after.inherited, after, done)
        return after

    def _leave(self, path: Path, student: LoadedClip) -> None:
        self.distributed.on_main(lambda: save_local_dir(path, student))
