"""The destination folder of a bundle."""

from __future__ import annotations

from pathlib import Path

from tinyclip_edge.errors import BundleError


def check_destination(out: Path, *, force: bool) -> None:
    """Raise BundleError unless `out` is absent, empty, or a bundle that `force` may replace."""
    for path in (out.parent, out):
        if path.exists() and not path.is_dir():
            raise BundleError(f"cannot write bundle {out}: {path} is a file; give a folder")
    if not out.exists():
        return
    if not any(out.iterdir()):
        return
    if not (out / "manifest.json").is_file():
        raise BundleError(f"{out} has other files in it; give a new or an empty folder")
    if not force:
        raise BundleError(f"{out} already is a bundle; replace it with --force")
