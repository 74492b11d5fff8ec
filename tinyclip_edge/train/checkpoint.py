"""The content of a checkpoint, and how a run is restored from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError

VERSION = 3  # written into new files
# raised by torch for an incompatible state
BROKEN = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Position:
    """The progress of a run, and the conditions under which it can be continued."""

    step: int  # optimizer steps done; with the seed this determines the next batch
    skipped: int
    skipped_in_a_row: int
    teacher: str  # weights_hash
    data: str  # fingerprint of the training pairs
    config: dict[str, Any]  # flattened, plain JSON; config.yaml, in contrast, may have been edited
    stage: int = 1
    pruned: int | None = None  # step at which this stage's gates were cut out
    processes: int = 1  # number of processes that shared a batch
    recipe: str = ""  # digest of everything that determines the teacher's features


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Content of a checkpoint."""

    position: Position
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None  # of fp16 gradients
    rng: dict[str, Tensor]
    beside: dict[str, Tensor] = field(default_factory=dict)  # projector, gates
    stream: dict[int, dict[str, Any]] | None = None  # StreamPosition.plain of all processes
    version: int = VERSION  # format version of the checkpoint that was read

    def apply(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, beside: nn.Module | None = None
    ) -> None:
        """Load everything; raise ModelError if the checkpoint has another architecture."""
        refusal = f"the checkpoint of step {self.position.step} has another architecture"
        difference = _first_difference(model.state_dict(), self.weights)
        if difference:
            raise ModelError(f"{refusal}: {difference}")
        try:
            expected = [_kinds(group) for group in optimizer.param_groups]
            switches = [_switches(group) for group in optimizer.param_groups]
            model.load_state_dict(self.weights)
            optimizer.load_state_dict(self.optimizer)
            if beside is not None:
                beside.load_state_dict(self.beside)
            there = [_kinds(group) for group in optimizer.param_groups]
            same = all(own.items() <= its.items() for own, its in zip(expected, there, strict=True))
            for group, own in zip(optimizer.param_groups, switches, strict=True):
                group.update(own)
        except (RuntimeError, *BROKEN) as error:
            raise ModelError(f"{refusal}: {error}") from error
        if not same or not _moments_fit(optimizer):
            raise ModelError(f"{refusal}: its optimizer state belongs to another model")


def rng_state() -> dict[str, Tensor]:
    """Return the state of torch's generators, the only ones that training uses."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: dict[str, Tensor]) -> None:
    """Set torch's generators; raise ModelError if the state is invalid."""
    try:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
    except (RuntimeError, *BROKEN) as error:
        raise ModelError(f"the checkpoint's random number state is damaged: {error}") from error


def restore_scaler(scaler: torch.amp.GradScaler, state: dict[str, Any]) -> None:
    """Set the fp16 gradient scaler's state; raise ModelError if it is invalid."""
    try:
        scaler.load_state_dict(state)
    except (RuntimeError, *BROKEN) as error:
        raise ModelError(f"the checkpoint's gradient scaler state is damaged: {error}") from error


def _kinds(group: Mapping[str, Any]) -> dict[str, type]:
    """Return the type of each number, or pair of numbers, among an optimizer's hyperparameters."""
    return {
        key: float if isinstance(value, int | float) else tuple
        for key, value in group.items()
        if isinstance(value, int | float | tuple) and not isinstance(value, bool)
    }


def _switches(group: Mapping[str, Any]) -> dict[str, bool | None]:
    """Return the optimizer's implementation switches, which depend on the machine."""
    return {key: value for key, value in group.items() if value is None or isinstance(value, bool)}


def _moments_fit(optimizer: torch.optim.Optimizer) -> bool:
    """Whether each updated parameter has AdamW's step count and moments of its shape."""
    states: Mapping[Any, Mapping[str, Any]] = optimizer.state
    for parameter, state in states.items():
        if not isinstance(parameter, Tensor):  # a state without a parameter
            return False
        shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        tensors = all(isinstance(v, Tensor) and v.is_floating_point() for v in state.values())
        if not tensors or {key: value.shape for key, value in state.items()} != shapes:
            return False
    return True


def _first_difference(model: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str | None:
    for key in sorted({*model, *stored}):
        there, here = (str(list(t[key].shape)) if key in t else "missing" for t in (stored, model))
        if here != there:
            return f"{key} is {there} in the checkpoint but {here} in the student"
    return None
