"""Open pictures sent by visitors; limits are checked before decoding."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tinyclip_edge.errors import DataError
from tinyclip_edge.paths import read_bounded
from tinyclip_edge.runtime.images import image_header, open_image
from tinyclip_edge.units import size

MAX_UPLOAD_MB = 20
MAX_TEXT_BYTES = 200_000  # of a list of labels
MAX_UPLOAD_PIXELS = 40_000_000
MAX_RATIO = 50  # of the sides; resizing a very thin picture would need millions of pixels
M_ARENA_MAX = -8  # of glibc's malloc.h
LARGE_PIXELS = 2_000_000

UPLOADS_VARIABLE = "GRADIO_TEMP_DIR"

_had_large_upload = threading.Event()


class _GoneError(DataError):
    """The file cannot be read; the message names a path on the server."""


@contextmanager
def upload_folder() -> Iterator[None]:
    """Let gradio store uploads in a folder for this process only, which is removed at the end.

    gradio's default, ``gradio`` in the system's temporary folder, belongs to the first user who ran
    it on this machine. If GRADIO_TEMP_DIR names a folder, that one is used as it is.
    """
    if os.environ.get(UPLOADS_VARIABLE):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="tinyclip-demo-", ignore_cleanup_errors=True) as folder:
        os.environ[UPLOADS_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[UPLOADS_VARIABLE]


def open_upload(path: str | None) -> Image.Image:
    """Return the upload as RGB.

    Raises DataError, with a message for each cause and without the name of a file on the server,
    when it is missing, empty, too large, has too many pixels, or is not a valid image.
    """
    if not path:
        raise DataError("no image yet: upload one or pick an example")
    content = _content(path, MAX_UPLOAD_MB * 1_000_000)
    _check_header(content)
    return open_image(content, "the upload")


def open_text(path: str) -> str:
    """Return the text of an upload; DataError when it is gone, empty, too large, or not UTF-8."""
    try:
        return _content(path, MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("the upload is not UTF-8 text") from None


def _content(path: str, limit: int) -> bytes:
    try:
        length = Path(path).stat().st_size
        if length > limit:
            raise DataError(f"the upload has {size(length)}: at most {size(limit)} are read")
        content = read_bounded(Path(path), _GoneError, limit=limit)
    except (OSError, ValueError, _GoneError) as error:
        raise DataError("the upload is gone: upload it again") from error
    if not content:
        raise DataError("the upload is empty: 0 bytes")
    return content


def _check_header(content: bytes) -> None:
    _, width, height = image_header(content, "the upload")
    if width * height > MAX_UPLOAD_PIXELS:
        raise DataError(
            f"the upload has {width:,} × {height:,} pixels: at most "
            f"{MAX_UPLOAD_PIXELS // 1_000_000} million are opened"
        )
    if max(width, height) > MAX_RATIO * min(width, height) > 0:
        raise DataError(
            f"the upload has {width:,} × {height:,} pixels: too long and thin, at most "
            f"{MAX_RATIO} times as long as wide"
        )
    if width * height > LARGE_PIXELS:
        _had_large_upload.set()


def release_memory(after: float = 0.0) -> None:
    """Return the memory of large uploads to the system, which glibc's allocator would retain.

    ``after`` is a delay in seconds, for handlers that still hold the picture.
    """
    if not _had_large_upload.is_set():
        return
    _had_large_upload.clear()
    if not after:
        _trim()
        return
    timer = threading.Timer(after, _trim)
    timer.daemon = True
    timer.start()


def use_one_heap() -> None:
    """Make all threads allocate from the main heap, the only one that glibc can trim.

    Call before threads are started.
    """
    _glibc("mallopt", M_ARENA_MAX, 1)


def _trim() -> None:
    _glibc("malloc_trim", 0)


def _glibc(name: str, *values: int) -> None:
    try:
        getattr(ctypes.CDLL(None), name)(*values)
    # Other systems have no such function.
    except (OSError, AttributeError, TypeError):
        return
