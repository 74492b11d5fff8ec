"""How many pixels a picture may have."""

from __future__ import annotations

from typing import IO

from PIL import Image

from tinyclip_edge.errors import DataError

MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB as RGB
# For a JPEG decoded at a fraction of its size: phones take pictures of 200 megapixels.
MAX_JPEG_PIXELS = 16_384 * 16_384
_START, _SCAN = b"\xff\xd8", 0xDA
_SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def check_size(image: Image.Image, label: str) -> None:
    """Raise DataError for a picture without pixels, or with more than MAX_PIXELS."""
    if image.width * image.height == 0:
        raise DataError(f"{label} is empty: {image.width}x{image.height} pixels")
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{label} has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are opened"
        )


def check_jpeg_size(image: Image.Image, stream: IO[bytes], label: str) -> None:
    """Raise DataError for a JPEG too large to be decoded at a fraction of its size.

    Beyond MAX_PIXELS it must have one scan: with several, all coefficients are in memory at once.
    """
    if image.width * image.height <= MAX_PIXELS:
        check_size(image, label)
    elif image.width * image.height > MAX_JPEG_PIXELS:
        raise DataError(
            f"{label} has {image.width}x{image.height} pixels; JPEGs are opened up to "
            f"{MAX_JPEG_PIXELS:,}"
        )
    else:
        position = stream.tell()
        if not _has_one_scan(stream):
            raise DataError(
                f"{label} has {image.width}x{image.height} pixels in several scans (progressive); "
                f"such JPEGs are opened up to {MAX_PIXELS:,}"
            )
        stream.seek(position)


def _has_one_scan(stream: IO[bytes]) -> bool:
    """Whether a JPEG has one scan of all its colours; False for an unusual structure."""
    stream.seek(0)
    if stream.read(len(_START)) != _START:
        return False
    colours = 0
    while (marker := _marker(stream)) is not None:
        size = int.from_bytes(stream.read(2), "big") - 2
        content = stream.read(max(size, 0))
        if size < 1 or len(content) < size:
            return False
        if marker in _FRAMES:
            if marker not in _SEQUENTIAL or colours or size < 6:
                return False
            colours = content[5]
        if marker == _SCAN:
            return content[0] == colours
    return False


def _marker(stream: IO[bytes]) -> int | None:
    """Return the next marker's code; None if no marker with a length follows."""
    if stream.read(1) != b"\xff":
        return None
    while (byte := stream.read(1)) == b"\xff":
        continue
    return byte[0] if byte and 0xC0 <= byte[0] <= 0xFE and not 0xD0 <= byte[0] <= 0xD9 else None
