"""JPEG files decoded at a half, a quarter or an eighth of their size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import IO, TypeAlias

from PIL import Image, JpegImagePlugin

# From the size of an upright picture to the least size at which it may be decoded.
LeastSize: TypeAlias = "Callable[[int, int], tuple[float, float]]"

_MAGIC = b"\xff\xd8\xff"


def is_jpeg(head: bytes) -> bool:
    """Whether a file begins like a JPEG."""
    return head.startswith(_MAGIC)


def open_jpeg(stream: IO[bytes]) -> JpegImagePlugin.JpegImageFile:
    """Open a JPEG of any size, without decoding it; raise SyntaxError for another file."""
    return JpegImagePlugin.JpegImageFile(stream)


def decode_reduced(image: Image.Image, least: LeastSize, *, on_its_side: bool) -> None:
    """Make an opened JPEG decode at the smallest size that is not below ``least``.

    ``on_its_side``: whether it needs a quarter turn to be upright. Other formats are unchanged.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return
    size = least(*reversed(image.size))[::-1] if on_its_side else least(*image.size)
    image.draft(None, (math.ceil(size[0]), math.ceil(size[1])))
