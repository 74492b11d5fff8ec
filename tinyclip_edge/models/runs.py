"""Find the student inside a run folder, and the newest run."""

from __future__ import annotations

from pathlib import Path

from tinyclip_edge.errors import ModelError

_CONFIG = "open_clip_config.json"
_EVENTS = "events.jsonl"
_MANIFEST = "manifest.json"


def student_folder(path: Path) -> Path | None:
    """Return the open_clip folder that ``path`` is or holds as a run's ``student/``, else None."""
    for folder in (path, path / "student"):
        if (folder / _CONFIG).is_file():
            return folder
    return None


def newest_run(root: str | Path = "runs") -> Path:
    """Return the trained run whose student was written last; ModelError without one."""
    found = _newest_run(Path(root))
    if found is None:
        raise ModelError(f"no finished run under {root}: run `tinyclip-edge distill` first")
    return found


def newest_models(runs: str | Path = "runs", bundles: str | Path = "bundles") -> list[str]:
    """Return the newest trained run and the newest bundle, as far as there are any."""
    found = (_newest_run(Path(runs)), _newest(Path(bundles), _MANIFEST))
    return [str(path) for path in found if path is not None]


def _newest_run(root: Path) -> Path | None:
    # `tinyclip-edge inherit` leaves a student too, but nothing that tells of training.
    return _newest(root, f"student/{_CONFIG}", beside=_EVENTS)


def _newest(root: Path, marker: str, *, beside: str = "") -> Path | None:
    """Return the folder whose ``marker`` was written last, of those that also have ``beside``."""
    folders = [
        folder
        for folder in (root.iterdir() if root.is_dir() else ())
        if (folder / marker).is_file() and (folder / beside).exists()
    ]
    # Hidden folders are half-written; names break ties, for times of a copied tree are alike.
    return max(
        (folder for folder in folders if not folder.name.startswith(".")),
        key=lambda folder: ((folder / marker).stat().st_mtime_ns, folder.name),
        default=None,
    )
