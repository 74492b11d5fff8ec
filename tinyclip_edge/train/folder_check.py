"""Check, without torch, whether a run can be started or resumed in a folder."""

from __future__ import annotations

from pathlib import Path

from tinyclip_edge.aside import refuse_locked
from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.file_aside import partial_files
from tinyclip_edge.paths import refuse_links

CHECKPOINTS = "checkpoints"
CONFIG = "config.yaml"
REPLACED = ("student", "best", "pruned")  # model folders: replaced as a whole, so may be links
# Left by a run that was killed before it started (the second by version 0.1): not content.
LEFTOVERS = (".lock", f"{CONFIG}.part")


def check_run_folder(path: Path, *, resume: bool) -> None:
    """Raise TinyClipError if a process holds the folder, or if ``check_content`` does."""
    refuse_locked(path)
    check_content(path, resume=resume)


def check_content(path: Path, *, resume: bool) -> None:
    """Raise TinyClipError if the folder is not empty; to resume, if it has no run or has links."""
    if path.exists() and not path.is_dir():
        raise TinyClipError(f"run folder {path} is a file; choose another --out")
    has_run = (path / CONFIG).is_file() or bool(checkpoint_steps(path / CHECKPOINTS))
    if resume:
        if not has_run:
            raise TinyClipError(
                f"{path} has no checkpoint to resume from and no {CONFIG}; start a run in it: "
                f"tinyclip-edge distill CONFIG --out {path}"
            )
        refuse_links(path, TinyClipError, replaced=REPLACED)
    elif path.is_dir() and _has_content(path):
        way_on = f", or continue its run: tinyclip-edge distill --resume {path}" if has_run else ""
        raise TinyClipError(f"run folder {path} is not empty; choose another --out{way_on}")


def _has_content(path: Path) -> bool:
    begun = partial_files(path / CONFIG)
    return any(one.name not in LEFTOVERS and one not in begun for one in path.iterdir())


def resumed_config(path: Path) -> Path:
    """Return the configuration of a run to resume. Raises TinyClipError if there is no run."""
    config = path / CONFIG
    if not config.is_file():
        missing = f"it has no {CONFIG}" if path.is_dir() else "there is no such folder"
        raise TinyClipError(f"cannot resume {path}: {missing}; pass the folder of a run")
    return config


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, complete or not, oldest first."""
    names = [path.name for path in folder.glob("*") if path.is_dir()]
    return sorted(int(name) for name in names if is_step(name))


def is_step(name: str) -> bool:
    """Whether a folder of this name can be the checkpoint of a step."""
    return name.isascii() and name.isdigit()
