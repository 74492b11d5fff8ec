"""Checkpoints on disk: written atomically, verified by hash; the newest complete one is read.

``checkpoint.json`` contains digests of the files beside it, and one of its own content. Version 2
had no digests of its own content, pictures and preprocessing; it is read with a warning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tinyclip_edge.aside import NEW, settle, written_aside
from tinyclip_edge.errors import ModelError, TinyClipError, shown
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.models.checkpoint_file import read_checkpoint
from tinyclip_edge.run_events import MAX_STEP
from tinyclip_edge.runtime.bundle import file_sha256
from tinyclip_edge.train.checkpoint import VERSION, Checkpoint, Position
from tinyclip_edge.train.folder_check import checkpoint_steps, is_step

FORMAT, OLDER = "tinyclip-edge-checkpoint", 2
WEIGHTS, STATE, ABOUT = "student.safetensors", "state.pt", "checkpoint.json"
STATES = {"optimizer", "scaler", "rng", "beside", "stream"}  # of state.pt

# Defaults for the keys that version 3 added to checkpoint.json.
NEWER = {"processes": 1, "recipe": "", "sha256": None}

Count = Annotated[int, Field(ge=0, lt=MAX_STEP)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class CheckpointStore:
    """The ``checkpoints/`` folder of a run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, complete or not, oldest first."""
        return checkpoint_steps(self.folder)

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"{step:08d}"

    def config(self) -> dict[str, Any] | None:
        """Return the flattened configuration stored with the newest readable checkpoint."""
        for step in reversed(self.steps()):
            try:
                return _about(self.path(step)).config
            except _BrokenError:
                continue
        return None

    def recover(self) -> None:
        """Recover complete checkpoints left under temporary names, and remove incomplete ones.

        Call it only while holding the run folder.
        """
        for aside in [*self.folder.glob(".*.partial"), *self.folder.glob("*.part")]:
            name = aside.name.strip(".").split(".")[0]
            place = self.folder / name
            if aside.suffix == ".partial":
                settle(aside, place)
            content = aside / NEW if aside.suffix == ".partial" else aside
            if is_step(name) and is_whole(content) and not is_whole(place):
                shutil.rmtree(place, ignore_errors=True)
                content.rename(place)
            shutil.rmtree(aside, ignore_errors=True)
        steps = self.steps()
        if len(steps) > self._keep and is_whole(self.path(steps[-1])):
            self._drop_oldest()

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and remove the oldest; on failure the earlier ones are unchanged.

        Raises TinyClipError.
        """
        step = checkpoint.position.step
        path = self.path(step)
        try:
            with written_aside(path) as aside:
                _write(aside, checkpoint)
        except (OSError, SafetensorError, RuntimeError) as error:
            whole = [number for number in self.steps() if number != step]
            last = f"the last complete one is of step {whole[-1]}" if whole else "there is none yet"
            raise TinyClipError(f"checkpoint {path} cannot be written ({error}); {last}") from error
        self._drop_oldest()
        return path

    def _drop_oldest(self) -> None:
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)

    def load_newest(self, warn: Callable[[str], None]) -> Checkpoint:
        """Return the newest complete checkpoint; report each damaged one through ``warn``.

        Raises TinyClipError if none is complete.
        """
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                checkpoint = _read(path)
            except _BrokenError as error:
                warn(f"checkpoint {path} is damaged ({error}); using the previous one")
                continue
            if checkpoint.version != VERSION:
                warn(
                    f"checkpoint {path} has version {checkpoint.version}, which does not record "
                    "pictures, preprocessing and tokenizer: make sure that they are unchanged"
                )
            return checkpoint
        raise TinyClipError(
            f"{self.folder} has no complete checkpoint; delete it to start the run again at step "
            f"0: tinyclip-edge distill --resume {self.folder.parent}"
        )


class _BrokenError(TinyClipError):
    """A checkpoint is incomplete or of an unknown format; the message says why."""


def is_whole(folder: Path) -> bool:
    """Whether a folder is a checkpoint with all its original bytes."""
    try:
        _check(folder)
    except _BrokenError:
        return False
    return True


class _Files(BaseModel):
    """Digests of the files of a checkpoint."""

    model_config = ConfigDict(strict=True, extra="forbid")

    weights: Digest = Field(alias="student.safetensors")
    state: Digest = Field(alias="state.pt")


class _About(BaseModel):
    """Content of checkpoint.json."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["tinyclip-edge-checkpoint"]
    version: Literal[2, 3]
    step: Count
    skipped: Count
    skipped_in_a_row: Count
    teacher: str
    data: str
    config: dict[str, Any]
    stage: Annotated[Count, Field(ge=1)]
    pruned: Count | None
    processes: Annotated[Count, Field(ge=1)]
    recipe: str
    files: _Files
    sha256: Digest | None

    @property
    def position(self) -> Position:
        """The position of the run."""
        return Position(**{name: getattr(self, name) for name in Position.__dataclass_fields__})


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    # safetensors refuses tensors that are not contiguous.
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
        "format": FORMAT,
        "version": VERSION,
        **asdict(checkpoint.position),
        "files": {name: file_sha256(folder / name) for name in (WEIGHTS, STATE)},
    }
    about["sha256"] = _digest(about)
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _digest(about: Mapping[str, Any]) -> str:
    """Return the hash of the content of checkpoint.json without this hash."""
    content = {key: value for key, value in about.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _about(folder: Path) -> _About:
    content = read_json_table(folder / ABOUT, _BrokenError, unique_keys=True)
    version = content.get("version")
    if version == OLDER and not content.keys() & NEWER.keys():
        content = {**NEWER, **content}
    elif version != VERSION:
        raise _BrokenError(
            f"version {shown(version)}, but this version reads {VERSION} and {OLDER}"
        )
    try:
        about = _About.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _BrokenError(f"{ABOUT}: {where}: {first['msg']}") from None
    if about.version == VERSION and about.sha256 != _digest(content):
        raise _BrokenError(f"{ABOUT} was changed")
    return about


def _check(folder: Path) -> _About:
    """Compare all files with their digests."""
    about = _about(folder)
    for name, digest in ((WEIGHTS, about.files.weights), (STATE, about.files.state)):
        try:
            digest_now = file_sha256(folder / name)
        except OSError as error:
            raise _BrokenError(f"{name}: {error.strerror or error}") from None
        if digest_now != digest:
            raise _BrokenError(f"{name} was changed or truncated")
    return about


def _read(folder: Path) -> Checkpoint:
    about = _check(folder)
    if folder.name != f"{about.step:08d}":
        raise _BrokenError(f"it contains step {about.step}")
    try:
        state, weights = (read_checkpoint(folder / name) for name in (STATE, WEIGHTS))
    except ModelError as error:
        raise _BrokenError(str(error)) from error
    if isinstance(state, dict) and about.version == OLDER:
        state.setdefault("stream", None)  # missing in version 2: skip pairs by reading
    if not isinstance(state, dict) or set(state) != STATES or not _typed(state):
        raise _BrokenError(f"{STATE} has unexpected contents")
    assert isinstance(weights, dict)  # safetensors always holds named tensors
    return Checkpoint(about.position, weights=weights, **state, version=about.version)


def _typed(state: dict[str, Any]) -> bool:
    """Whether the parts of state.pt have the types of ``Checkpoint``."""
    scaler, stream = state["scaler"], state["stream"]
    tensors = (state["rng"], state["beside"])
    return (
        isinstance(state["optimizer"], dict)
        and (scaler is None or isinstance(scaler, dict))
        and all(_table_of(table, Tensor) for table in tensors)
        and (stream is None or _table_of(stream, dict))
    )


def _table_of(table: object, kind: type) -> bool:
    return isinstance(table, dict) and all(isinstance(value, kind) for value in table.values())
