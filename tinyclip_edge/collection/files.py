"""Files of a collection: how their state is compared, and how they are read."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import NamedTuple

from tinyclip_edge.collection.journal import DIGEST_BYTES
from tinyclip_edge.errors import DataError, TinyClipError
from tinyclip_edge.paths import expanded
from tinyclip_edge.runtime.decode_modes import EXACT
from tinyclip_edge.runtime.image_formats import is_image_name
from tinyclip_edge.runtime.images import image_header
from tinyclip_edge.runtime.picture_files import folder_pictures
from tinyclip_edge.runtime.preprocess import Preprocess
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.video_keys import is_video_name

_BLOCK = 1 << 20  # bytes hashed at a time
_INTERVAL = struct.Struct("<d")  # seconds between a video's frames, at the end of its digest


class Stamp(NamedTuple):
    """State of a file; a file with the same state is taken to be unchanged."""

    size: int  # bytes
    mtime_ns: int


class PictureFile(NamedTuple):
    """A file below the folders."""

    path: str
    stamp: Stamp


class KnownPicture(NamedTuple):
    """A file when it was embedded."""

    stamp: Stamp
    digest: bytes


class PictureContent(NamedTuple):
    """A file that was read."""

    file: PictureFile
    digest: bytes
    pixels: Features | None  # None: a picture with the same bytes is known


def picture_reader(
    preprocess: Preprocess, known: Container[bytes]
) -> Callable[[PictureFile], PictureContent]:
    """Return a function that reads a file, and decodes it unless its digest is known.

    It raises DataError for a file that is not a readable picture.
    """

    def read(file: PictureFile) -> PictureContent:
        # First, so that a large file of another kind is not hashed.
        image_header(file.path, reduced=preprocess.decode != EXACT)
        value = _content_digest(file.path, DIGEST_BYTES)
        pixels = None if value in known else preprocess(file.path, file.path)
        return PictureContent(file, value, pixels)

    return read


def scan_folders(
    folders: Iterable[str], on_skipped: Callable[[str, TinyClipError], None]
) -> list[PictureFile]:
    """Return the pictures and videos below folders with their state.

    ``on_skipped`` is called for files and folders that cannot be read. Raise DataError if one of
    ``folders`` itself cannot be read, or if there is no picture or video.
    """
    roots = list(folders)

    def unreadable(folder: Path, error: TinyClipError) -> None:
        if str(folder) in roots:
            raise error
        on_skipped(str(folder), error)

    files = []
    for path in folder_pictures(roots, on_unreadable=unreadable, is_wanted=_is_media_name):
        try:
            stat = os.stat(path)  # noqa: PTH116 - a string: there may be a million
        except OSError as error:
            on_skipped(path, DataError(f"cannot read {path}: {error.strerror}"))
            continue
        files.append(PictureFile(path, Stamp(stat.st_size, stat.st_mtime_ns)))
    return files


def _is_media_name(name: str) -> bool:
    return is_image_name(name) or is_video_name(name)


def video_digest(path: str, every: float) -> bytes:
    """Return the digest of a video's content and the interval between its frames.

    Raise DataError if it cannot be read.
    """
    return _content_digest(path, DIGEST_BYTES - _INTERVAL.size) + _INTERVAL.pack(every)


def frames_interval(digest: bytes) -> float:
    """Return the interval, in seconds, in a digest of ``video_digest``."""
    return float(_INTERVAL.unpack_from(digest, DIGEST_BYTES - _INTERVAL.size)[0])


def _content_digest(path: str, size: int) -> bytes:
    digest = hashlib.blake2b(digest_size=size)
    try:
        with open(path, "rb") as content:  # noqa: PTH123
            while block := content.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return digest.digest()


def absolute_folders(folders: str | Path | Iterable[str | Path]) -> list[str]:
    """Return one or several folders as index keys begin with them: absolute, links resolved."""
    several = [folders] if isinstance(folders, (str, Path)) else folders
    return [os.path.realpath(expanded(folder)) for folder in several]


def inside(folder: str) -> str:
    """Return the prefix of all paths in a folder."""
    return folder.rstrip(os.sep) + os.sep
