"""Where a bundle goes: made in a folder aside, and renamed only when it is whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyclip_edge.errors import BundleError


def check_free(out: Path, *, force: bool) -> None:
    """Raise BundleError unless `out` is absent, empty, or a bundle that `force` may replace."""
    for place in (out.parent, out):
        if place.exists() and not place.is_dir():
            raise BundleError(f"cannot write bundle {out}: {place} is a file; give a folder")
    if not out.exists():
        return
    if not any(out.iterdir()):
        return
    if not (out / "manifest.json").is_file():
        raise BundleError(f"{out} holds other files; give a new or an empty folder")
    if not force:
        raise BundleError(f"{out} already holds a bundle; replace it with --force")


@contextmanager
def aside(place: Path) -> Iterator[Path]:
    """Make a folder beside `place`, so that the last step is a rename on the same disk."""
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install(folder: Path, out: Path) -> None:
    """Rename the finished folder to `out`; what stood there goes only once the new one stands."""
    old = folder.with_name(f"{folder.name}-old")
    if out.exists():
        out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)
