"""Open whatever counts as an image, and refuse what is broken or too large before it is decoded."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.protocol import ImageInput

MAX_PIXELS = 89_478_485  # Pillow's own threshold of suspicion: 256 MiB as RGB


def open_image(image: ImageInput, label: str = "image") -> Image.Image:
    """Return a decoded PIL image in its own mode, which is what open_clip's transform starts from.

    So a rotation that EXIF tells of is not made, transparency is dropped and the colours under it
    show, palettes are resized by nearest neighbour, CMYK becomes RGB as Pillow does it, and an
    animation gives its first frame. Unlike there, a file's 16-bit greys are scaled to 8 bits, which
    open_clip cuts off to white, and floats that are no numbers are refused.

    ``label`` names the input in messages where it has no path. Raise DataError when it is missing,
    does not decode, is truncated, or has more than ``MAX_PIXELS`` pixels.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, label)
    if isinstance(image, Image.Image):
        return _decoded(image, str(getattr(image, "filename", "") or label))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _opened(io.BytesIO(image), label)
    if isinstance(image, (str, Path)):
        return _opened(Path(image), str(image))
    raise DataError(
        f"{label}: expected a path, bytes, a PIL image or a uint8 array, got {type(image).__name__}"
    )


def _opened(source: Path | io.BytesIO, label: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # The size is checked below, with an error in place of a warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                return _eight_bits(_decoded(image, label))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no such image: {label}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{label}: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{label} is no image that Pillow can read") from error
    # Decoders raise whatever the broken bytes lead them to: struct.error, KeyError, ValueError …
    except Exception as error:
        raise _undecodable(label, error) from error


def _decoded(image: Image.Image, label: str) -> Image.Image:
    if image.width * image.height == 0:
        raise DataError(f"{label} is empty: {image.width}x{image.height} pixels")
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{label} has {image.width}x{image.height} pixels; at most {MAX_PIXELS} are opened"
        )
    try:
        image.load()
    except Exception as error:
        raise _undecodable(label, error) from error
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise DataError(f"{label} has pixels that are not finite")
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a file's 16-bit greys scaled to 8 bits, which Pillow would cut off to white."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))


def _undecodable(label: str, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{label} does not decode: {reason}")


def _from_array(array: np.ndarray, label: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise DataError(f"{label}: arrays must be uint8 [H, W, 3], got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise DataError(f"{label}: arrays must be uint8 [H, W, 3], got shape {list(array.shape)}")
    if array.size == 0:
        raise DataError(f"{label} is empty: shape {list(array.shape)}")
    return _decoded(Image.fromarray(np.ascontiguousarray(array)), label)
