"""Checkpoints: written aside and renamed, checked by hash, the newest whole one is taken."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError, TinyClipError
from tinyclip_edge.runtime.bundle import file_sha256
from tinyclip_edge.train.run_folder import checkpoint_steps

VERSION = 2
WEIGHTS, STATE, ABOUT = "student.safetensors", "state.pt", "checkpoint.json"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands, and what it must be continued with."""

    step: int  # optimizer steps done; with the seed this fixes the next batch
    skipped: int
    skipped_in_a_row: int
    teacher: str  # weights_hash
    data: str  # fingerprint of the training pairs
    config: dict[str, Any]  # flattened, plain JSON; beside it, config.yaml is anybody's to edit
    stage: int = 1
    pruned: int | None = None  # step at which this stage's gates were cut out


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Content of one checkpoint."""

    position: Position
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None  # of fp16 gradients
    rng: dict[str, Tensor]
    beside: dict[str, Tensor] = field(default_factory=dict)  # projector, gates: not the student's
    stream: dict[int, dict[str, Any]] | None = None  # StreamPosition.plain of all processes

    def apply(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, beside: nn.Module | None = None
    ) -> None:
        """Load all; raise ModelError when the checkpoint is of another architecture."""
        told = f"the checkpoint of step {self.position.step} is of another architecture"
        difference = _first_difference(model.state_dict(), self.weights)
        if difference:
            raise ModelError(f"{told}: {difference}")
        try:
            model.load_state_dict(self.weights)
            optimizer.load_state_dict(self.optimizer)
            if beside is not None:
                beside.load_state_dict(self.beside)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"{told}: {' '.join(str(error).split())}") from error


def rng_state() -> dict[str, Tensor]:
    """Return torch's generators, the only ones that training draws from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: dict[str, Tensor]) -> None:
    """Set torch's generators."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class CheckpointStore:
    """The ``checkpoints/`` folder of a run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, whole or not, oldest first."""
        return checkpoint_steps(self.folder)

    def config(self) -> dict[str, Any] | None:
        """Return the flattened configuration that the newest readable checkpoint was made with."""
        for step in reversed(self.steps()):
            try:
                config = _about(self.folder / f"{step:08d}")["config"]
            except (_BrokenError, *_BROKEN):
                continue
            if isinstance(config, dict):
                return config
        return None

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and drop the oldest; on failure the earlier ones stay as they were."""
        step = checkpoint.position.step
        path = self.folder / f"{step:08d}"
        aside = self.folder / f"{step:08d}.part"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            _write(aside, checkpoint)
            if path.exists():
                shutil.rmtree(path)
            aside.replace(path)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            whole = [number for number in self.steps() if number != step]
            last = f"the last whole one is of step {whole[-1]}" if whole else "there is none yet"
            raise TinyClipError(f"checkpoint {path} cannot be written ({error}); {last}") from error
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.folder / f"{old:08d}", ignore_errors=True)
        return path

    def load_newest(self, warn: Callable[[str], None]) -> Checkpoint:
        """Return the newest whole checkpoint; each broken one is named through ``warn``.

        Raises TinyClipError when none is whole.
        """
        for step in reversed(self.steps()):
            path = self.folder / f"{step:08d}"
            try:
                return _read(path)
            except _BrokenError as error:
                warn(f"checkpoint {path} is broken ({error}); going back to the one before")
        raise TinyClipError(f"{self.folder} holds no whole checkpoint; start the run anew")


class _BrokenError(Exception):
    pass


_BROKEN = (OSError, ValueError, KeyError, TypeError)


def _first_difference(model: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for key in sorted({*model, *found}):
        there, here = (str(list(t[key].shape)) if key in t else "missing" for t in (found, model))
        if here != there:
            return f"{key} is {there} in the checkpoint and {here} in the student"
    return None


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    # Tied or sliced tensors would be refused or stored whole: copy what is not contiguous.
    weights = {
        key: tensor.detach().cpu().contiguous() for key, tensor in checkpoint.weights.items()
    }
    save_file(weights, folder / WEIGHTS)
    state = {
        "optimizer": checkpoint.optimizer,
        "scaler": checkpoint.scaler,
        "rng": checkpoint.rng,
        "beside": {key: tensor.detach().cpu() for key, tensor in checkpoint.beside.items()},
        "stream": checkpoint.stream,
    }
    torch.save(state, folder / STATE)
    about = {
        "format": "tinyclip-edge-checkpoint",
        "version": VERSION,
        **asdict(checkpoint.position),
        "files": {name: file_sha256(folder / name) for name in (WEIGHTS, STATE)},
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    if about["version"] != VERSION:
        raise _BrokenError(f"version {about['version']}, this program reads {VERSION}")
    return about


def _read(folder: Path) -> Checkpoint:
    try:
        about = _about(folder)
        for name, digest in about["files"].items():
            if file_sha256(folder / name) != digest:
                raise _BrokenError(f"{name} was changed or cut off")
        names = Position.__dataclass_fields__
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        return Checkpoint(
            # Checkpoints of one stage do not always name it.
            position=Position(**{name: about[name] for name in names if name in about}),
            weights=load_file(folder / WEIGHTS),
            **state,
        )
    except (*_BROKEN, SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error
