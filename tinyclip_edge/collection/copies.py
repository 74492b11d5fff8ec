"""Copies of the pictures that a search returns."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tinyclip_edge.errors import DataError, MissingExtraError
from tinyclip_edge.runtime.images import image_header
from tinyclip_edge.runtime.video import frame_at
from tinyclip_edge.runtime.video_keys import split_key


def copy_pictures(keys: Sequence[str], folder: Path) -> list[str]:
    """Copy pictures into a folder as 01-NAME, 02-NAME …; return the keys of those left out.

    A frame of a video becomes a picture, 03-NAME-12.0s.png. Missing files, and files that are
    not pictures, are left out: an index from elsewhere may name any file.
    Raise DataError if writing fails or, before anything is copied, if a copy exists already.
    """
    digits = max(2, len(str(len(keys))))
    copies = {key: folder / f"{rank:0{digits}d}-{_name(key)}" for rank, key in enumerate(keys, 1)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for copy in copies.values():
            if copy.exists():
                raise DataError(f"{copy} exists already; choose another folder")
        return [key for key, copy in copies.items() if not _copy(key, copy)]
    except OSError as error:
        raise DataError(f"cannot copy into {folder}: {error.strerror or error}") from error


def _name(key: str) -> str:
    path, seconds = split_key(key)
    return Path(path).name if seconds is None else f"{Path(path).name}-{seconds}s.png"


def _copy(key: str, copy: Path) -> bool:
    """Copy a picture, or write a frame; return whether there was one."""
    path, seconds = split_key(key)
    try:
        if seconds is not None:
            frame_at(path, seconds).save(copy)
            return True
        image_header(path, reduced=True)
    except (DataError, MissingExtraError):
        return False
    shutil.copyfile(path, copy)
    return True
