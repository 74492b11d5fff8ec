"""The run folder: the paths of its parts, and the conditions for starting or resuming a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tinyclip_edge.aside import LOCK, clear_leftovers, locked, refuse_locked
from tinyclip_edge.config import RunConfig, dump_config, flatten
from tinyclip_edge.config.renamed import rename_keys
from tinyclip_edge.errors import ConfigError, TinyClipError
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.launcher import first_process
from tinyclip_edge.train.checkpoint import VERSION, Checkpoint
from tinyclip_edge.train.checkpoint_store import CheckpointStore
from tinyclip_edge.train.folder_check import CHECKPOINTS, CONFIG, check_content

# Keys that affect neither the weights nor the data of a resumed run; paths of teacher and pairs
# may change because the checkpoint has digests of their content.
FREE_KEYS = frozenset(
    {
        "name",
        "teacher.model",
        "teacher.pretrained",
        "teacher.ensemble",
        "data.train",
        "data.images",
        "data.texts",
        "data.mix",
        "data.allow_pipes",
        "data.val",
        "data.val_images",
        "data.val_texts",
        "data.val_limit",
        "data.limits",
        "data.workers",
        "data.feature_cache",
        "masks.log_every",
        "run.device",
        "run.log_every",
        "run.eval_every",
        "run.save_every",
        "run.keep",
        "run.trackers",
        # These change a loss only by floating-point rounding.
        "run.micro_batch",
        "run.grad_checkpointing",
        "run.compile",
    }
)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``config.yaml events.jsonl checkpoints/ student/ best/`` and the teacher's cached features.

    ``report/`` at the end; ``vocabulary.json`` with ``student.vocab``; runs of stages or masks also
    have ``stages/<number>/``.
    """

    path: Path
    config: RunConfig

    @property
    def events(self) -> Path:
        """JSON objects, one per line."""
        return self.path / "events.jsonl"

    @property
    def student(self) -> Path:
        """The finished student, an open_clip local-dir."""
        return self.path / "student"

    @property
    def best(self) -> Path:
        """The best student on the validation pairs, an open_clip local-dir."""
        return self.path / "best"

    @property
    def report(self) -> Path:
        """The HTML page, and plots of a run with masks or stages."""
        return self.path / "report"

    def stage_student(self, number: int) -> Path:
        """Return the dense student at the end of a stage other than the last."""
        return self.path / "stages" / str(number) / "student"

    def pruned(self, number: int) -> Path:
        """Return the student right after its gates were pruned in a stage."""
        return self.path / "stages" / str(number) / "pruned"

    @property
    def features(self) -> Path:
        """Teacher features computed so far."""
        return self.path / "teacher_features.safetensors"

    @property
    def vocabulary(self) -> Path:
        """The student's tokens, if it has fewer than its teacher."""
        return self.path / "vocabulary.json"

    @property
    def settings(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG

    @property
    def checkpoints(self) -> CheckpointStore:
        """The checkpoints, the newest ``run.keep`` of them."""
        return CheckpointStore(self.path / CHECKPOINTS, self.config.run.keep)

    def check(self, *, resume: bool) -> None:
        """Raise an error, before anything is written or computed, if a run cannot start here.

        Raises TinyClipError if the folder is in use, or has no checkpoint to resume from;
        ConfigError, which names the keys, if the configuration no longer matches the checkpoint.
        """
        refuse_locked(self.path)
        self._check(resume=resume)

    def _check(self, *, resume: bool) -> None:
        check_content(self.path, resume=resume)
        if resume:
            self._check_config()
            chosen = self.config.student.vocab is not None and bool(self.checkpoints.steps())
            if chosen and not self.vocabulary.is_file():
                raise TinyClipError(
                    f"cannot resume {self.path}: {self.vocabulary.name} is missing; it lists the "
                    "tokens of the student"
                )

    @contextmanager
    def held(self, *, resume: bool) -> Iterator[None]:
        """Check the folder and lock it against all other processes or process groups.

        The configuration of a new run is written immediately, so that a run killed before its first
        checkpoint can be resumed; if it fails before it starts, no files remain. Leftovers of
        killed runs are removed. With a launcher, the first process locks the folder for all. Raises
        the errors of ``check``, and TinyClipError if the folder is in use.
        """
        if not first_process():
            if resume:  # a new run's folder is checked, and perhaps written, by the first process
                self._check(resume=True)
            yield
            return
        self.check(resume=resume)
        new_folders = self._make_folder()
        try:
            with locked(self.path):
                self._check(resume=resume)  # another process may have ended in the meantime
                self._clear_leftovers()
                if not self.settings.exists():
                    self.create()
                try:
                    yield
                finally:
                    begun = resume or self.events.exists()
                    if not begun:
                        self.settings.unlink(missing_ok=True)
        finally:
            if new_folders and not self.settings.exists() and not self.events.exists():
                self._remove(new_folders)

    def _make_folder(self) -> list[Path]:
        """Create the folder; return the folders that did not exist, innermost first."""
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TinyClipError(f"run folder {self.path} cannot be written ({error})") from None
        return missing

    def _remove(self, folders: list[Path]) -> None:
        with suppress(OSError):
            (self.path / LOCK).unlink(missing_ok=True)
            for path in folders:
                path.rmdir()

    def _clear_leftovers(self) -> None:
        """Undo or complete an interrupted operation."""
        self.checkpoints.recover()
        for parent in (self.path, *self.path.glob("stages/*")):
            for old in parent.glob(".*.old"):
                place = parent / old.name.strip(".").split(".")[0]
                if not place.exists():
                    old.rename(place)
                shutil.rmtree(old, ignore_errors=True)
            clear_leftovers(parent)
        for parent in (self.path, self.report, *self.path.glob("stages/*")):
            for work in (*parent.glob(".*.partial"), *parent.glob("*.part")):
                if work.is_dir():
                    shutil.rmtree(work, ignore_errors=True)
                else:
                    work.unlink(missing_ok=True)

    def newest(
        self,
        warn: Callable[[str], None],
        *,
        teacher: str,
        teacher_hash: str,
        recipe: str,
        data_hash: str,
        order_hash: str,
    ) -> Checkpoint | None:
        """Return the newest complete checkpoint, None before the first one is written.

        Damaged ones are reported through ``warn``. Raises TinyClipError if all are damaged, or if
        the newest belongs to another teacher or other pairs. Checkpoints of version 2 have
        ``order_hash`` in place of ``data_hash``, and no ``recipe``.
        """
        if not self.checkpoints.steps():
            return None
        checkpoint = self.checkpoints.load_newest(warn)
        if checkpoint.position.teacher != teacher_hash:
            raise TinyClipError(
                f"cannot resume {self.path}: the weights of teacher {teacher} are not those with "
                "which the run started"
            )
        is_current = checkpoint.version == VERSION
        if is_current and checkpoint.position.recipe != recipe:
            raise TinyClipError(
                f"cannot resume {self.path}: teacher {teacher} has the weights with which the run "
                "started, but another preprocessing, tokenizer or data.views"
            )
        if checkpoint.position.data != (data_hash if is_current else order_hash):
            raise TinyClipError(
                f"cannot resume {self.path}: {self._pairs()} are not those with which the run "
                "started"
            )
        return checkpoint

    def _pairs(self) -> str:
        has_pairs = self.config.data.train is not None
        return "the pairs of data.train" if has_pairs else "the pictures or texts of data"

    def create(self) -> None:
        """Create the folder and write the resolved configuration; TinyClipError if that fails."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TinyClipError(f"run folder {self.path} cannot be written ({error})") from None
        with file_written_aside(self.settings) as file:
            file.write(dump_config(self.config).encode())

    def _check_config(self) -> None:
        before, now = self.checkpoints.config(), flatten(self.config)
        if before is None:  # the store reports that there is no complete checkpoint
            return
        before = _filled(before)
        free = FREE_KEYS
        inherit = self.config.inherit
        if not self.config.stages and inherit.method != "masks" and not inherit.is_mapped:
            steps = before.get("optim.steps")
            if isinstance(steps, int) and self.config.optim.steps > steps:
                free |= {"optim.steps"}
        changed = [key for key in now if key not in free and now[key] != before.get(key)]
        if changed:
            differences = ", ".join(
                f"{key} (was {before.get(key)!r}, is {now[key]!r})" for key in changed
            )
            raise ConfigError(
                f"cannot resume {self.path}: these keys must not change: {differences}"
            )


def _filled(before: dict[str, Any]) -> dict[str, Any]:
    """Return an older configuration with defaults for newer keys."""
    sections: dict[str, Any] = {}
    for key, value in before.items():
        section, _, name = key.partition(".")
        if not name:
            sections[key] = value
        elif isinstance(keys := sections.setdefault(section, {}), dict):
            keys[name] = value
        else:  # both a value and a section
            return before
    rename_keys(sections, "checkpoint", warn=False)
    try:
        return flatten(RunConfig.model_validate(sections))
    except ValidationError:  # keys that no longer exist
        return before
