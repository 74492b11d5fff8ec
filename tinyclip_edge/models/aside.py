"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Give a new folder beside ``folder``; when the block ends without an error it takes its place.

    What stood there before is removed only after that. OSErrors pass.
    """
    if not folder.name:  # the working folder, or the root: nothing can stand beside it
        raise OSError(errno.EBUSY, "it cannot be replaced, name a new folder", str(folder))
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        _replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(aside: Path, folder: Path) -> None:
    if not folder.exists():
        aside.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    try:
        aside.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)
