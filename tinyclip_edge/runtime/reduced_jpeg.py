"""JPEG files decoded at a half, a quarter or an eighth of their size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import IO, TypeAlias

from PIL import Image, JpegImagePlugin

# Of the size of an upright picture, the least at which it may be decoded.
LeastSize: TypeAlias = "Callable[[int, int], tuple[float, float]]"

_MAGIC = b"\xff\xd8\xff"


def is_jpeg(head: bytes) -> bool:
    """Whether a file begins as a JPEG does."""
    return head.startswith(_MAGIC)


def open_jpeg(stream: IO[bytes]) -> JpegImagePlugin.JpegImageFile:
    """Open a JPEG of any size, without decoding it; raise SyntaxError for another file."""
    return JpegImagePlugin.JpegImageFile(stream)


def decode_reduced(image: Image.Image, least: LeastSize, *, on_its_side: bool) -> None:
    """Have an opened JPEG decoded at the smallest size that is not below ``least``.

    ``on_its_side``: whether it is turned by a quarter before it is upright. Others are unchanged.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return
    size = least(*reversed(image.size))[::-1] if on_its_side else least(*image.size)
    image.draft(None, (math.ceil(size[0]), math.ceil(size[1])))
