"""What is trained at the moment, and how one stage, or one prune, hands over to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator

from tinyclip_edge.config import RunConfig, as_steps
from tinyclip_edge.data import PixelCodec
from tinyclip_edge.inheritance import InheritanceReport
from tinyclip_edge.inheritance.gates import ClipGates
from tinyclip_edge.inheritance.prune import load_moments, named_moments, slice_moments
from tinyclip_edge.models import LoadedClip, create_student, load_clip
from tinyclip_edge.models.pruned import PruneResult, clip_units, prune_clip
from tinyclip_edge.train.optimizer import OptimizerStep, Restart, make_optimizer, trainable
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.schedule import Stage
from tinyclip_edge.train.stages.student import dense_copy, stage_student
from tinyclip_edge.train.tasks.distill_task import DistillTask
from tinyclip_edge.train.tasks.mask_task import MaskedTask
from tinyclip_edge.train.tasks.teacher import Teacher


@dataclass(frozen=True, slots=True)
class StageState:
    """A student in training."""

    stage: Stage
    student: LoadedClip
    inherited: InheritanceReport | None
    task: DistillTask
    updater: OptimizerStep
    pruned: int | None = None  # step of the run at which this stage's gates were cut out

    @property
    def label(self) -> dict[str, int]:
        """Return what events of a run of several stages carry."""
        return {"stage": self.stage.number} if self.stage.of > 1 else {}


@dataclass(frozen=True, slots=True)
class StageFactory:
    """Makes the work of each stage; the teacher is always the big one."""

    config: RunConfig
    accelerator: Accelerator
    teacher: LoadedClip
    asked: Teacher
    codec: PixelCodec

    def begin(
        self,
        stage: Stage,
        student: LoadedClip,
        inherited: InheritanceReport | None = None,
        before: StageState | None = None,
    ) -> StageState:
        """Return the work of a stage's first step."""
        task = self._task(student, stage, None if before is None else before.task)
        return StageState(stage, student, inherited, task, self._updater(task, stage, before))

    def next(self, stage: Stage, before: StageState) -> StageState:
        """Return the work of the stage after ``before``, made out of its dense student."""
        student, inherited = stage_student(self.config, stage, before.student)
        return self.begin(stage, student, inherited, before)

    def prune(self, work: StageState, done: int) -> tuple[StageState, PruneResult]:
        """Cut the gates out: a small dense student that keeps what AdamW knows of its weights."""
        assert isinstance(work.task, MaskedTask)
        uniform = self.config.student.uniform_shapes
        # At the last step allowed no shape may be near enough; the run says so and goes on.
        gates = work.task.gates
        result = prune_clip(work.student, gates, uniform_shapes=uniform, nearest=True)
        moments = named_moments(work.updater.optimizer, work.student.model.named_parameters())
        after = self._pruned(work.stage, replace(result.clip, name=work.student.name), done, work)
        kept = slice_moments(moments, result.plan)
        optimizer = after.updater.optimizer
        load_moments(optimizer, after.student.model.named_parameters(), kept)
        _carry_moments(work, after)
        return after, result

    def again(self, stage: Stage, pruned: int | None, folder: RunFolder) -> StageState:
        """Return the work of the stage that a checkpoint was made in; its weights come after.

        ``pruned`` is the step of this stage's prune. Raises ModelError when the model that the
        stage was made out of is gone from the run folder.
        """
        if pruned is not None:
            return self._pruned(stage, _opened(folder.pruned(stage.number)), pruned)
        if stage.number == 1:
            origin = self.teacher
        else:
            origin = _opened(folder.stage_student(stage.number - 1))
        if stage.student is None:
            return self.begin(stage, dense_copy(origin))
        return self.begin(stage, create_student(stage.student, origin))

    def _pruned(
        self, stage: Stage, student: LoadedClip, done: int, before: StageState | None = None
    ) -> StageState:
        """Return the work after a prune: plain distillation, its rate rising to the schedule."""
        assert stage.masks is not None
        dense = replace(stage, masks=None)
        task = self._task(student, dense, None if before is None else before.task)
        updater = self._updater(task, stage, before)
        updater.restart = Restart(done, as_steps(stage.masks.rewarm, stage.end - done))
        return StageState(stage, student, None, task, updater, done)

    def _task(self, student: LoadedClip, stage: Stage, before: DistillTask | None) -> DistillTask:
        device, loss = self.accelerator.device, self.config.loss
        if stage.masks is None or stage.keep is None:
            return DistillTask(student, self.asked, self.codec, loss, device=device, before=before)
        task = MaskedTask(student, self.asked, self.codec, loss, device=device, before=before)
        whole = clip_units(self.teacher).prunable
        gates = ClipGates(clip_units(student), prunable=whole)
        task.learn(gates, stage.keep, stage.masks, self.config)
        return task

    def _updater(self, task: DistillTask, stage: Stage, before: StageState | None) -> OptimizerStep:
        self.accelerator.free_memory()  # it would hold every earlier student
        self._spare(task)
        optimizer = make_optimizer(task.encoder, stage.optim, task.groups(stage.optim))
        wrapped, optimizer = self.accelerator.prepare(task.encoder, optimizer)
        task.wrap(wrapped)
        updater = OptimizerStep(self.accelerator, optimizer, task.clipped(), stage.optim)
        updater.began = stage.began
        updater.beside = trainable(task.beside.parameters())
        updater.ranks.copy_from_main(task.beside.parameters())
        if before is not None:
            updater.skipped = before.updater.skipped
            updater.skipped_in_a_row = before.updater.skipped_in_a_row
        return updater

    def _spare(self, task: DistillTask) -> None:
        """Do what saves memory and time on the way through the student."""
        run = self.config.run
        model = cast("Any", task.encoder.model)
        if run.grad_checkpointing:
            model.set_grad_checkpointing(True)
        if run.compile:
            task.encoder.compile_blocks()
        if not hasattr(model.visual, "transformer"):  # a ViT's patches gain nothing
            task.encoder.to(memory_format=torch.channels_last)
        if run.micro_batch is not None:
            task.micro_batch = run.micro_batch


def _carry_moments(before: StageState, after: StageState) -> None:
    """Give the optimizer what the one before knew of the modules of the objective."""
    earlier = before.task.objective.modules
    for name, module in after.task.objective.modules.items():
        parameters = list(earlier[name].named_parameters())
        moments = named_moments(before.updater.optimizer, parameters)
        load_moments(after.updater.optimizer, list(module.named_parameters()), moments)


def _opened(folder: Path) -> LoadedClip:
    clip = load_clip(str(folder))
    clip.model.requires_grad_(True)
    return replace(clip, name="student", weights_file=None)
