"""Find the student inside a run folder, and the newest run."""

from __future__ import annotations

from pathlib import Path

from tinyclip_edge.errors import BundleError, ModelError

CONFIG = "open_clip_config.json"
PRUNED_CONFIG = "tinyclip_edge_config.json"  # of a student whose layers differ in shape
EVENTS = "events.jsonl"
_MANIFEST = "manifest.json"


def student_folder(path: Path) -> Path | None:
    """Return ``path`` or a run's ``student/`` in it, whichever is a model folder, else None."""
    for folder in (path, path / "student"):
        if any((folder / name).is_file() for name in (CONFIG, PRUNED_CONFIG)):
            return folder
    return None


def model_config_file(folder: Path) -> Path:
    """Return the config file of a model folder. Raises ModelError if either is missing."""
    pruned = folder / PRUNED_CONFIG
    path = pruned if pruned.is_file() else folder / CONFIG
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}")
    if not path.exists():
        raise ModelError(f"{folder} is not an open_clip folder: it has no {CONFIG}")
    return path


def newest_run(root: str | Path = "runs") -> Path:
    """Return the trained run whose student was written last; ModelError without one."""
    run = _newest_run(Path(root))
    if run is None:
        raise ModelError(f"no finished run under {root}: run `tinyclip-edge distill` first")
    return run


def newest_bundle(root: str | Path = "bundles") -> Path:
    """Return the bundle written last. Raises BundleError, with advice, if there is none."""
    bundle = _newest(Path(root), (_MANIFEST,))
    if bundle is None:
        raise BundleError(
            f"no bundle in {root}/: name one with --bundle FOLDER, or make one with "
            "`tinyclip-edge export MODEL --int8` (pip install 'tinyclip-edge[export]')"
        )
    return bundle


def newest_models(runs: str | Path = "runs", bundles: str | Path = "bundles") -> list[str]:
    """Return the newest trained run and the newest bundle, where they exist."""
    newest = (_newest_run(Path(runs)), _newest(Path(bundles), (_MANIFEST,)))
    return [str(path) for path in newest if path is not None]


def _newest_run(root: Path) -> Path | None:
    # `tinyclip-edge inherit` writes a student too, but no events of training.
    configs = (f"student/{CONFIG}", f"student/{PRUNED_CONFIG}")
    return _newest(root, configs, companion=EVENTS)


def _newest(root: Path, markers: tuple[str, ...], *, companion: str = "") -> Path | None:
    """Return the folder with the newest marker among those that also have ``companion``."""
    candidates = [
        ((folder / marker).stat().st_mtime_ns, folder.name, folder)
        for folder in (root.iterdir() if root.is_dir() else ())
        for marker in markers
        # Hidden folders are incomplete.
        if (folder / marker).is_file()
        and (folder / companion).exists()
        and not folder.name.startswith(".")
    ]
    # Names break ties, because files of a copied tree may have equal times.
    return max(candidates)[-1] if candidates else None
