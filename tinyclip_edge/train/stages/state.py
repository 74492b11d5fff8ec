"""The current state of training: a student, its task and its optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import nn

from tinyclip_edge.inheritance import InheritanceReport
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.averaging import AveragedStudent
from tinyclip_edge.train.optimizer import OptimizerStep
from tinyclip_edge.train.schedule import Stage
from tinyclip_edge.train.tasks.distill_task import DistillTask
from tinyclip_edge.train.tasks.encoders import PairEncoder
from tinyclip_edge.train.tasks.mapped_task import MappedTask
from tinyclip_edge.train.tasks.mask_task import MaskedTask


class Phase(Enum):
    """Phases of a stage, which is dense from its start without masks or a mapping."""

    MASKED = "masked"  # gates are learnt, until they are pruned
    MAPPED = "mapped"  # the mapping of weights is learnt, until it is folded into them
    DENSE = "dense"  # weights alone, until the next stage or the end of the run


@dataclass(frozen=True, slots=True)
class StageState:
    """A student in training."""

    stage: Stage
    student: LoadedClip
    inherited: InheritanceReport | None  # by the student, at the start of the stage
    task: DistillTask
    optimizer_step: OptimizerStep
    pruned: int | None = None  # step of the run at which the gates of this stage were pruned
    averaged: AveragedStudent | None = None  # of a dense phase, where optim.ema is set

    @property
    def result(self) -> LoadedClip:
        """The student that is evaluated and saved: the average of its weights, if there is one."""
        return self.student if self.averaged is None else self.averaged.clip

    @property
    def encoder(self) -> PairEncoder:
        """The towers of ``result``."""
        return self.task.encoder if self.averaged is None else self.averaged.encoder

    @property
    def beside(self) -> nn.ModuleDict:
        """Modules that checkpoints store in addition to the student."""
        if self.averaged is None:
            return self.task.beside
        return nn.ModuleDict({**self.task.beside, "ema": self.averaged.average})

    def after_step(self) -> None:
        """Clamp weights to their valid range, then update the average."""
        self.task.after_step()
        if self.averaged is not None:
            self.averaged.update(self.student)

    @property
    def phase(self) -> Phase:
        """The current phase of its stage."""
        if isinstance(self.task, MappedTask):
            return Phase.MAPPED
        return Phase.MASKED if isinstance(self.task, MaskedTask) else Phase.DENSE

    @property
    def label(self) -> dict[str, int]:
        """Return the stage label of events; empty for a run of one stage."""
        return {"stage": self.stage.number} if self.stage.of > 1 else {}
