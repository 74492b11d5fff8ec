"""The stages of a run as a state machine.

A stage is masked until its gates are pruned, or mapped until its mapping is folded into weights,
then dense; one without either is dense from its start. A dense stage leads to the next one, the
last to the end of the run::

    MASKED ── prune ──▶ DENSE ── next stage ──▶ MASKED or DENSE of the next stage
    MAPPED ── fold  ──▶ DENSE
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from tinyclip_edge.config import MasksConfig
from tinyclip_edge.models import LoadedClip, save_local_dir
from tinyclip_edge.models.pruned import PruneResult
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.schedule import Stage
from tinyclip_edge.train.stages.factory import StageFactory
from tinyclip_edge.train.stages.state import Phase, StageState
from tinyclip_edge.train.tasks.mapped_task import MappedTask
from tinyclip_edge.train.tasks.mask_task import MaskedTask


class Transition(Enum):
    """The transition after a step."""

    STAY = "stay"
    WAIT = "wait"  # pruning is due but its target is not met, so it is postponed
    PRUNE = "prune"
    FOLD = "fold"  # the mapping has been learnt
    NEXT_STAGE = "next stage"


class StageMachine:
    """The current state of a run, and the transitions between states."""

    def __init__(
        self,
        state: StageState,
        stages: Sequence[Stage],
        factory: StageFactory,
        folder: RunFolder,
        distributed: DistributedContext,
    ) -> None:
        self.state = state
        self.stages = stages
        self._factory = factory
        self._folder = folder
        self._distributed = distributed

    @property
    def is_last(self) -> bool:
        """Whether this is the last stage."""
        return self.state.stage.number == self.stages[-1].number

    @property
    def has_final_shape(self) -> bool:
        """Whether the student has the final shape of the run."""
        return self.is_last and self.state.phase is not Phase.MASKED

    def due(self, done: int) -> Transition:
        """Return the transition after ``done`` steps of the run.

        If gates are near their target when pruning is due, they are shifted onto it.
        """
        task = self.state.task
        if isinstance(task, MaskedTask):
            return _due_prune(task, self._folder.config.masks)
        if isinstance(task, MappedTask):
            return Transition.FOLD if done >= self.state.stage.folds else Transition.STAY
        if done >= self.state.stage.end and not self.is_last:
            return Transition.NEXT_STAGE
        return Transition.STAY

    def prune(self, done: int) -> PruneResult:
        """Prune the gates after ``done`` steps. Raises ModelError if saving the student fails."""
        self.state, result = self._factory.prune(self.state, done)
        self._save(self._folder.pruned(self.state.stage.number), self.state.student)
        return result

    def fold(self) -> None:
        """Continue with the weights themselves instead of the mapping that made them."""
        self.state = self._factory.fold(self.state)

    def next_stage(self) -> None:
        """Start the next stage. Raises ModelError if its student cannot be saved."""
        number = self.state.stage.number
        self._save(self._folder.stage_student(number), self.state.result)
        self.state = self._factory.next(self.stages[number], self.state)

    def _save(self, path: Path, student: LoadedClip) -> None:
        self._distributed.on_main(lambda: save_local_dir(path, student))


def _due_prune(task: MaskedTask, masks: MasksConfig) -> Transition:
    steps, done = task.steps, task.steps_done
    if done < steps.prune:
        return Transition.STAY
    is_settled = task.settle(masks.tolerance)
    if is_settled or done >= steps.prune + steps.wait:
        return Transition.PRUNE
    return Transition.WAIT if done == steps.prune else Transition.STAY
