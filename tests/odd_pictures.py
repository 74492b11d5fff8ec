"""Pictures of every mode and file of every odd sort, for tests of the preprocessing."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(mode: str, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode in ("RGBA", "LA"):
        return Image.fromarray(rgba).convert(mode)
    rgb = Image.fromarray(rgba[:, :, :3].copy())
    if mode.startswith("P"):
        palette = rgb.quantize(17)
        if mode == "P+alpha":
            palette.info["transparency"] = 3
        return palette
    return rgb.convert(mode)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def file_of(kind: str) -> bytes:
    """A file of each odd sort, 90x60 pixels of noise."""
    colours = picture("RGB", 90, 60)
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        buffer = io.BytesIO()
        colours.save(buffer, "JPEG", exif=exif)
        return buffer.getvalue()
    if kind in ("GIF", "WEBP"):
        buffer = io.BytesIO()
        second = picture("RGB", 60, 90).resize((90, 60))
        colours.save(buffer, kind, save_all=True, append_images=[second], duration=50)
        return buffer.getvalue()
    if kind == "palette with alpha":
        palette = colours.quantize(17)
        buffer = io.BytesIO()
        palette.save(buffer, "PNG", transparency=bytes(range(0, 170, 10)))
        return buffer.getvalue()
    form, mode = kind.split()
    return encoded(picture(mode, 90, 60), form)
