"""Pictures that a visitor sends: limits first, decoding after."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

from PIL import Image

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.images import image_header, open_image

MAX_UPLOAD_MB = 20
MAX_UPLOAD_PIXELS = 40_000_000
MAX_RATIO = 50  # of the sides: resized to a square, a thread would become millions of pixels
M_ARENA_MAX = -8  # of glibc's malloc.h
LARGE_PIXELS = 2_000_000

_large_opened = threading.Event()


def open_upload(path: str | None) -> Image.Image:
    """Return the upload as RGB; raise DataError, which names no file of the server.

    Missing, empty, too large, too many pixels, no image, broken: each has a message of its own.
    """
    if not path:
        raise DataError("no image yet: upload one or pick an example")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError("the upload is gone: upload it again") from error
    if not content:
        raise DataError("the upload is empty: 0 bytes")
    if len(content) > MAX_UPLOAD_MB * 1_000_000:
        raise DataError(
            f"the upload has {len(content) / 1e6:.0f} MB: at most {MAX_UPLOAD_MB} MB are read"
        )
    _check_header(content)
    return open_image(content, "the upload")


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
        _large_opened.set()


def give_back_memory(after: float = 0.0) -> None:
    """Return what large uploads took to the system, where its allocator would keep it (glibc).

    ``after``: seconds to wait for those that still hold the picture.
    """
    if not _large_opened.is_set():
        return
    _large_opened.clear()
    if not after:
        _trim()
        return
    waiting = threading.Timer(after, _trim)
    waiting.daemon = True
    waiting.start()


def share_one_heap() -> None:
    """Have all threads allocate from one heap (glibc): only the first one's can be given back.

    To be called before there are threads.
    """
    _glibc("mallopt", M_ARENA_MAX, 1)


def _trim() -> None:
    _glibc("malloc_trim", 0)


def _glibc(name: str, *values: int) -> None:
    try:
        getattr(ctypes.CDLL(None), name)(*values)
    # Another system's allocator keeps what it likes.
    except (OSError, AttributeError, TypeError):
        return
