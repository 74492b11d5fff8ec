"""The start of a run: step 0, or the newest complete checkpoint of its folder."""

from __future__ import annotations

from dataclasses import dataclass

from tinyclip_edge.config import flatten
from tinyclip_edge.errors import ModelError
from tinyclip_edge.train.batches import StreamPositions
from tinyclip_edge.train.checkpoint import Checkpoint, Position
from tinyclip_edge.train.monitoring.events import Observer
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.schedule import Stage
from tinyclip_edge.train.setup import Setup
from tinyclip_edge.train.stages.machine import StageMachine
from tinyclip_edge.train.stages.state import StageState
from tinyclip_edge.train.stages.student import InitialStudent
from tinyclip_edge.train.training_pairs import order_hash

# How much a loss changes within 20 steps if features are rounded differently: tests/distributed.
ROUNDING = 2e-5


@dataclass(frozen=True, slots=True)
class RunStart:
    """The start of a run."""

    step: int  # finished steps
    machine: StageMachine
    stream: StreamPositions | None = None  # stream positions of all processes


def start_run(
    setup: Setup, first: InitialStudent, folder: RunFolder, observer: Observer, *, resume: bool
) -> RunStart:
    """Return the start of a new or resumed run.

    A run that was killed before its first checkpoint starts over. Raises TinyClipError or
    ModelError if no checkpoint is complete or the newest one does not match the run.
    """
    checkpoint = _newest(setup, folder, observer) if resume else None
    if checkpoint is None:
        if resume:
            observer.on_message("no checkpoint yet: the run starts at step 0")
        state = setup.factory.begin(setup.stages[0], first)
        return RunStart(0, _machine(setup, state, folder))
    try:
        state = _restore(setup, first, folder, checkpoint)
    except ModelError as error:
        raise ModelError(f"cannot resume {folder.path}: {error}") from error
    _restore_features(setup, folder, checkpoint.position, observer)
    return RunStart(checkpoint.position.step, _machine(setup, state, folder), checkpoint.stream)


def _newest(setup: Setup, folder: RunFolder, observer: Observer) -> Checkpoint | None:
    with setup.distributed.agreed():
        return folder.newest(
            observer.on_message,
            teacher=setup.teacher_clip.name,
            teacher_hash=setup.teacher_hash,
            recipe=setup.recipe,
            data_hash=setup.data_hash,
            order_hash=order_hash(setup.pairs),
        )


def _machine(setup: Setup, state: StageState, folder: RunFolder) -> StageMachine:
    return StageMachine(state, setup.stages, setup.factory, folder, setup.distributed)


def _restore(
    setup: Setup, first: InitialStudent, folder: RunFolder, checkpoint: Checkpoint
) -> StageState:
    position = checkpoint.position
    if position.stage > len(setup.stages):
        raise ModelError(f"its checkpoint is of stage {position.stage}, which does not exist")
    stage = setup.stages[position.stage - 1]
    _check_position(position, stage)
    return setup.factory.resume(checkpoint, stage, first, folder)


def _check_position(position: Position, stage: Stage) -> None:
    """Raise ModelError if a position, or the step of its pruning, is outside its stage."""
    if not stage.began <= position.step <= stage.end:
        raise ModelError(
            f"its checkpoint is of step {position.step}, but stage {stage.number} has steps "
            f"{stage.began} to {stage.end}"
        )
    if position.pruned is None:
        return
    if stage.masks is None or not stage.began <= position.pruned <= position.step:
        raise ModelError(
            f"its checkpoint has a student pruned at step {position.pruned}, but stage "
            f"{stage.number} prunes no masks at that step"
        )


def _restore_features(
    setup: Setup, folder: RunFolder, position: Position, observer: Observer
) -> None:
    """Load the teacher's features; missing ones are recomputed in the same batches."""
    fault = setup.load_features(folder.features)
    if setup.features is None or fault is None:
        return
    if not setup.features.filled:
        setup.read_cache(observer)
    key = "run.micro_batch"
    same_batches = (
        position.processes == setup.distributed.count
        and position.config.get(key) == flatten(folder.config)[key]
    )
    curve = (
        "in the batches of the run, so its losses stay the same"
        if same_batches
        else f"with different processes or {key} than before: losses may differ by {ROUNDING:g}"
    )
    observer.on_message(f"teacher features {fault}: recomputed {curve}")
    setup.compute_features(position.step)
