"""The pictures of a folder at the beginning of a tailoring."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.data.pairs import BAD_SHARE
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.bundle import file_sha256
from tinyclip_edge.runtime.images import image_header
from tinyclip_edge.runtime.picture_files import folder_pictures

NAMED = 3


@dataclass(frozen=True, slots=True)
class Picture:
    """One file."""

    path: str
    sha256: str
    size: int  # bytes
    modified: int  # nanoseconds


@dataclass(frozen=True, slots=True)
class PictureList:
    """Readable pictures in the order of their names, and the paths of unreadable ones."""

    folder: str
    pictures: tuple[Picture, ...]
    unreadable: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "folder": self.folder,
            "pictures": [[p.path, p.sha256, p.size, p.modified] for p in self.pictures],
            "unreadable": list(self.unreadable),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> PictureList:
        """Return the list that ``as_dict`` wrote."""
        pictures = tuple(Picture(*row) for row in plain["pictures"])
        return cls(plain["folder"], pictures, tuple(plain["unreadable"]))

    def without(self, paths: tuple[str, ...]) -> PictureList:
        """Return the list with some of its pictures counted as unreadable."""
        pictures = tuple(p for p in self.pictures if p.path not in paths)
        return PictureList(self.folder, pictures, (*self.unreadable, *paths))

    def check_readable(self) -> None:
        """Raise DataError if more than 1 % cannot be read."""
        total = len(self.pictures) + len(self.unreadable)
        if len(self.unreadable) > BAD_SHARE * total:
            named = ", ".join(self.unreadable[:NAMED])
            more = len(self.unreadable) - NAMED
            raise DataError(
                f"{self.folder}: {len(self.unreadable):,} of {total:,} pictures cannot be read (at "
                f"most {BAD_SHARE:.0%} may be): {named}{f' and {more:,} more' if more > 0 else ''}"
            )

    def check_unchanged(self) -> None:
        """Raise DataError if a picture was deleted or changed since it was listed.

        New files in the folder are ignored.
        """
        changed = [p.path for p in self.pictures if _state(p.path) != (p.size, p.modified)]
        if changed:
            raise DataError(
                f"{self.folder}: {len(changed):,} of {len(self.pictures):,} pictures were deleted "
                f"or changed since they were listed, the first {changed[0]}; restore them, or "
                "start again with another --work"
            )


def list_pictures(folder: Path, progress: Callable[[int, int], None] | None = None) -> PictureList:
    """Read all files of a folder once, for their digests.

    ``progress`` is called with the number of finished files and of all files. Raises DataError if
    more than 1 % cannot be read as pictures.
    """
    paths = folder_pictures([folder])
    pictures, unreadable = [], []
    for done, path in enumerate(paths, 1):
        state = _state(path)
        try:
            image_header(path)
            digest = file_sha256(Path(path))
        except (DataError, OSError):
            unreadable.append(path)
        else:
            if state is not None:
                pictures.append(Picture(os.path.abspath(path), digest, *state))  # noqa: PTH100
        if progress is not None:
            progress(done, len(paths))
    listed = PictureList(str(folder), tuple(pictures), tuple(unreadable))
    listed.check_readable()
    return listed


def _state(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns
