"""Copies of the pictures that a search returns."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.images import image_header


def copy_pictures(keys: Sequence[str], folder: Path) -> int:
    """Copy pictures into a folder as 01-NAME, 02-NAME …; return how many there were to copy.

    Files that are gone, or not pictures, are left out: an index from elsewhere may name any file.
    Raise DataError if a copy exists already, before any is made, or when the disk refuses.
    """
    digits = max(2, len(str(len(keys))))
    copies = {
        Path(key): folder / f"{rank:0{digits}d}-{Path(key).name}"
        for rank, key in enumerate(keys, 1)
        if _is_picture(key)
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for copy in copies.values():
            if copy.exists():
                raise DataError(f"{copy} exists already; choose another folder")
        for picture, copy in copies.items():
            shutil.copyfile(picture, copy)
    except OSError as error:
        raise DataError(f"cannot copy into {folder}: {error.strerror or error}") from error
    return len(copies)


def _is_picture(path: str) -> bool:
    try:
        image_header(path)
    except DataError:
        return False
    return True
