"""Draw a picture at 64 px on white, detect bad drawings, and encode it compactly."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE = 64  # px
COLOUR_QUALITY = 75
GREY_LEVELS = 16
MIN_INK = 0.012  # share of dark pixels below which a drawing is blank or too light for white


@dataclass(frozen=True, slots=True)
class Drawing:
    """Encoded picture, hash of its decoded pixels, and its 16x16 grey thumbnail [256] in 0..1."""

    webp: bytes
    digest: str
    thumb: NDArray[np.float32]


def _rgb(source: str | bytes) -> NDArray[np.uint8]:
    from PIL import Image

    if isinstance(source, str):
        import resvg_py

        source = bytes(
            resvg_py.svg_to_bytes(svg_string=source, width=SIZE, height=SIZE, background="#ffffff")
        )
    picture = Image.open(io.BytesIO(source)).convert("RGBA")
    scale = SIZE / max(picture.size)
    if picture.size != (SIZE, SIZE):
        picture = picture.resize(
            (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
            Image.Resampling.BICUBIC,
        )
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    place = ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2)
    canvas.alpha_composite(picture, place)
    return np.asarray(canvas.convert("RGB"))


def draw(source: str | bytes) -> Drawing | None:
    """Render SVG text or PNG bytes; None if almost nothing would be visible on white."""
    from PIL import Image

    rgb = _rgb(source)
    grey = rgb.mean(axis=2)
    contrast = 255.0 - rgb.min(axis=2)
    if (contrast > 60).mean() < MIN_INK:
        return None
    buffer = io.BytesIO()
    if _is_grey(rgb):
        step = 255 / (GREY_LEVELS - 1)
        flat = (np.round(grey / step) * step).astype(np.uint8)
        Image.fromarray(flat).convert("RGB").save(
            buffer, "WEBP", lossless=True, quality=80, method=4
        )
    else:
        Image.fromarray(rgb).save(buffer, "WEBP", quality=COLOUR_QUALITY, method=6)
    decoded = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    thumb = (255 - decoded.mean(axis=2)).reshape(16, 4, 16, 4).mean(axis=(1, 3)) / 255
    digest = hashlib.sha256(decoded.tobytes()).hexdigest()
    return Drawing(buffer.getvalue(), digest, thumb.reshape(-1).astype(np.float32))


def _is_grey(rgb: NDArray[np.uint8]) -> bool:
    spread = rgb.max(axis=2).astype(np.int16) - rgb.min(axis=2)
    return bool(spread.max() <= 6)


def near(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Whether two thumbnails [256] show nearly the same drawing."""
    return float(np.abs(a - b).mean()) < 0.02
