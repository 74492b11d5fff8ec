"""Build the state of each stage, after pruning, and of a resumed checkpoint."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn

from tinyclip_edge.config import RunConfig, as_steps
from tinyclip_edge.data import PixelCodec
from tinyclip_edge.inheritance.gates import ClipGates
from tinyclip_edge.inheritance.mapping import WeightMapping
from tinyclip_edge.inheritance.prune import load_moments, named_moments, slice_moments
from tinyclip_edge.models import LoadedClip, load_clip
from tinyclip_edge.models.frozen import freeze
from tinyclip_edge.models.logit_bias import with_logit_bias
from tinyclip_edge.models.prefixes import with_prefixes
from tinyclip_edge.models.pruned import PruneResult, clip_units, prune_clip
from tinyclip_edge.train.averaging import AveragedStudent
from tinyclip_edge.train.checkpoint import Checkpoint, Position, restore_rng, restore_scaler
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.optimizer import OptimizerStep, Restart, make_optimizer, trainable
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.schedule import Stage
from tinyclip_edge.train.stages.state import StageState
from tinyclip_edge.train.stages.student import (
    InitialStudent,
    dense_copy,
    shaped,
    stage_student,
)
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskContext, TaskMaker
from tinyclip_edge.train.tasks.encoders import PairEncoder
from tinyclip_edge.train.tasks.mapped_task import MappedTask
from tinyclip_edge.train.tasks.mask_task import MaskedTask, MaskTarget
from tinyclip_edge.train.tasks.teacher import Teacher

# Before the first step.
START = Position(step=0, skipped=0, skipped_in_a_row=0, teacher="", data="", config={})


@dataclass(frozen=True, slots=True)
class StageFactory:
    """Builds states; every stage learns from the original teacher."""

    config: RunConfig
    accelerator: Accelerator
    teacher_clip: LoadedClip  # the first teacher, from which students inherit
    teacher: Teacher
    codec: PixelCodec
    dense_task: TaskMaker = DistillTask  # trains a student without masks

    def begin(
        self,
        stage: Stage,
        first: InitialStudent,
        *,
        before: StageState | None = None,
        position: Position = START,
    ) -> StageState:
        """Return the state of a stage's first step, or of one that ``position`` has reached."""
        if first.mapping is not None and position.step >= stage.folds:
            return self._folded(stage, first, position=position)
        student = self._student(first.clip)
        task = self._task(student, stage, before, position, first.mapping)
        optimizer_step = self._optimizer_step(task, stage, before, position)
        is_dense = stage.keep is None and first.mapping is None
        averaged = self._averaged(student) if is_dense else None
        return StageState(stage, student, first.inherited, task, optimizer_step, averaged=averaged)

    def next(self, stage: Stage, before: StageState) -> StageState:
        """Return the state of the stage after ``before``, built from its dense student."""
        first = stage_student(self.config, stage, before.result)
        return self.begin(stage, first, before=before)

    def fold(self, state: StageState) -> StageState:
        """Return the state after the last step of a mapping: its weights are trained from now on.

        Their optimizer is new and takes over nothing from the mapping's.
        """
        model = deepcopy(state.student.model)  # wrappers of the old one may refer to its weights
        first = InitialStudent(replace(state.student, model=model), state.inherited)
        after = self._folded(state.stage, first, before=state)
        _copy_objective_moments(state, after)
        return after

    def prune(self, state: StageState, done: int) -> tuple[StageState, PruneResult]:
        """Prune the gates of a state after ``done`` steps.

        The student becomes small and dense, and keeps AdamW's moments of its weights.
        """
        assert isinstance(state.task, MaskedTask)
        uniform = self.config.student.uniform_shapes
        # If no shape is within the tolerance at the last allowed step, take the nearest one.
        gates = state.task.gates
        result = prune_clip(state.student, gates, uniform_shapes=uniform, nearest=True)
        optimizer = state.optimizer_step.optimizer
        moments = named_moments(optimizer, state.student.model.named_parameters())
        clip = replace(result.clip, name=state.student.name)
        after = self._pruned(state.stage, clip, done, before=state)
        load_moments(
            after.optimizer_step.optimizer,
            after.student.model.named_parameters(),
            slice_moments(moments, result.plan),
        )
        _copy_objective_moments(state, after)
        return after, result

    def resume(
        self, checkpoint: Checkpoint, stage: Stage, first: InitialStudent, folder: RunFolder
    ) -> StageState:
        """Return the state in which a checkpoint was written.

        Raises ModelError if it has another architecture, or if the model from which its stage was
        built is missing in the run folder.
        """
        position = checkpoint.position
        if position.pruned is not None:
            pruned = _trainable_clip(folder.pruned(stage.number))
            state = self._pruned(stage, pruned, position.pruned, position=position)
        elif stage.number == 1:
            state = self.begin(stage, first, position=position)
        else:
            origin = _trainable_clip(folder.stage_student(stage.number - 1))
            student = (
                dense_copy(origin)
                if stage.student is None
                else shaped(self.config, stage.student, origin)
            )
            state = self.begin(stage, InitialStudent(student), position=position)
        checkpoint.apply(state.student.model, state.optimizer_step.optimizer, state.beside)
        if self.accelerator.scaler is not None and checkpoint.scaler is not None:
            restore_scaler(self.accelerator.scaler, checkpoint.scaler)
        restore_rng(checkpoint.rng)
        return state

    def _pruned(
        self,
        stage: Stage,
        student: LoadedClip,
        pruned: int,
        *,
        before: StageState | None = None,
        position: Position = START,
    ) -> StageState:
        """Return the state after pruning: plain distillation, the rate rising to the schedule."""
        assert stage.masks is not None
        restart = Restart(pruned, as_steps(stage.masks.rewarm, stage.end - pruned))
        first = InitialStudent(student)
        state = self._restarted(replace(stage, masks=None), first, restart, before, position)
        return replace(state, stage=stage, pruned=pruned)

    def _folded(
        self,
        stage: Stage,
        first: InitialStudent,
        *,
        before: StageState | None = None,
        position: Position = START,
    ) -> StageState:
        """Return the state after a mapping: plain distillation, the rate rising to the schedule."""
        restart = Restart(stage.folds, stage.optim.warmup_steps)
        return self._restarted(stage, first, restart, before, position)

    def _restarted(
        self,
        stage: Stage,
        first: InitialStudent,
        restart: Restart,
        before: StageState | None,
        position: Position,
    ) -> StageState:
        student = self._student(first.clip)
        task = self._task(student, stage, before, position)
        optimizer_step = self._optimizer_step(task, stage, before, position, restart)
        averaged = self._averaged(student)
        return StageState(stage, student, first.inherited, task, optimizer_step, averaged=averaged)

    def _student(self, student: LoadedClip) -> LoadedClip:
        """Return the student with the parts that the loss trains: a bias, embedding prefixes."""
        loss = self.config.loss
        if loss.uses_bias:
            student = with_logit_bias(student)  # the task sets its value
        student = with_prefixes(student, loss.matryoshka) if loss.matryoshka else student
        freeze(student.model, self.config.inherit.frozen)
        return student

    def _averaged(self, student: LoadedClip) -> AveragedStudent | None:
        """Return a new moving average, the same on all processes; None without ``ema``."""
        decay = self.config.optim.ema
        return None if decay is None else AveragedStudent.of(student, decay)

    def _task(
        self,
        student: LoadedClip,
        stage: Stage,
        before: StageState | None,
        position: Position,
        mapping: WeightMapping | None = None,
    ) -> DistillTask:
        self.accelerator.free_memory()  # otherwise it keeps all earlier students
        context = TaskContext(
            self.teacher,
            self.codec,
            self.config.loss,
            self.accelerator.device,
            self.config.run.micro_batch,
            self._prepare_encoder,
        )
        earlier = None if before is None else before.task
        if mapping is not None:
            return MappedTask(student, context, mapping, self.config.inherit, before=earlier)
        if stage.masks is None or stage.keep is None:
            return self.dense_task(student, context, before=earlier)
        target = MaskTarget(
            ClipGates(
                clip_units(student),
                prunable=clip_units(self.teacher_clip).prunable,
                whole=self.config.inherit.frozen,
            ),
            stage.keep,
            stage.masks,
            self.config.masks,
            self.config.student.uniform_shapes,
            max(0, position.step - stage.began),
        )
        return MaskedTask(student, context, target, before=earlier)

    def _optimizer_step(
        self,
        task: DistillTask,
        stage: Stage,
        before: StageState | None,
        position: Position,
        restart: Restart | None = None,
    ) -> OptimizerStep:
        optimizer = make_optimizer(task.encoder, stage.optim, task.groups(stage.optim))
        distributed = DistributedContext()
        distributed.copy_from_main(task.beside.parameters())
        counts = position if before is None else before.optimizer_step
        return OptimizerStep(
            self.accelerator,
            self.accelerator.prepare(optimizer),
            task.clipped(),
            stage.optim,
            first_step=stage.began,
            restart=restart,
            unwrapped=trainable(task.beside.parameters()),
            skipped=counts.skipped,
            skipped_in_a_row=counts.skipped_in_a_row,
            distributed=distributed,
        )

    def _prepare_encoder(self, encoder: PairEncoder) -> nn.Module:
        """Return the encoder as accelerate trains it, with options that save memory or time."""
        run = self.config.run
        model = cast("Any", encoder.model)
        if run.grad_checkpointing:
            model.set_grad_checkpointing(True)
        if run.compile:
            encoder.compile_blocks()
        if takes_channels_last(model.visual, self.accelerator.device):
            encoder.to(memory_format=torch.channels_last)
        wrapped: nn.Module = self.accelerator.prepare(encoder)
        return wrapped


def takes_channels_last(visual: nn.Module, device: torch.device) -> bool:
    """Whether an image tower trains faster with channels last, as convolutional ones do.

    Not on the CPU with grouped convolutions (FastViT): oneDNN's backward pass, as of torch 2.14,
    then writes outside its memory, which leads to NaN or a crash.
    """
    if hasattr(visual, "transformer"):
        return False
    grouped = any(isinstance(each, nn.Conv2d) and each.groups > 1 for each in visual.modules())
    return device.type != "cpu" or not grouped


def _copy_objective_moments(before: StageState, after: StageState) -> None:
    """Copy the previous optimizer's moments of the modules trained beside the student."""
    earlier = before.task.trained_modules
    for name, module in after.task.trained_modules.items():
        parameters = list(earlier[name].named_parameters())
        moments = named_moments(before.optimizer_step.optimizer, parameters)
        load_moments(after.optimizer_step.optimizer, list(module.named_parameters()), moments)


def _trainable_clip(folder: Path) -> LoadedClip:
    clip = load_clip(str(folder))
    clip.model.requires_grad_(True)
    return replace(clip, name="student", weights_file=None)
