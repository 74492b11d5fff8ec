"""Open images of every accepted kind; too large ones are refused before decoding.

One file gives the same pixels as path, bytes, PIL image or array, in training, evaluation, export
and inference:

- Upright: the EXIF orientation is applied.
- RGB: transparency is drawn on white; palettes, greys and CMYK are converted before any resizing.
- 8 bits: 16-bit greys are divided by 257; Pillow takes the high byte of 16-bit colours. 16-bit
  pictures with no value above 4,095 are refused because they may hold only 12 bits; so are 32-bit
  integers and floats, whose range is unknown.
- The first frame of an animation.
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from tinyclip_edge.errors import DataError, first_line
from tinyclip_edge.paths import exists, is_file
from tinyclip_edge.runtime.image_formats import FORMATS, READABLE
from tinyclip_edge.runtime.image_limits import check_jpeg_size, check_size
from tinyclip_edge.runtime.protocol import ImageInput
from tinyclip_edge.runtime.reduced_jpeg import LeastSize, decode_reduced, is_jpeg, open_jpeg

TWELVE_BITS = 4095

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_BRANDS_END = 64  # bytes of a file that contain its brands
# The error raised for a broken file says what Pillow would log, so nothing is printed as well.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_BY_A_QUARTER = range(5, 9)  # orientations
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    image: ImageInput,
    label: str = "image",
    *,
    as_stored: bool = False,
    least: LeastSize | None = None,
) -> Image.Image:
    """Return a decoded PIL image: RGB, upright, transparency on white.

    ``as_stored`` keeps the stored orientation, mode and colours under transparency, which is what
    open_clip's transform starts from. 16-bit greys still become 8 bits.

    With ``least``, a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, but not below
    ``least(width, height)``, and may have up to ``MAX_JPEG_PIXELS``.

    ``label`` names an input without a path in messages. Raise DataError for an image that is
    missing, in no format of ``image_formats``, undecodable, truncated, larger than ``MAX_PIXELS``
    pixels, or with values of unknown range.
    """
    if isinstance(image, np.ndarray):
        return _decoded(_from_array(image, label), label, as_stored)
    if isinstance(image, Image.Image):
        label = str(getattr(image, "filename", "") or label)
        if isinstance(image, ImageFile.ImageFile):
            _check_format(image, label)
        return _decoded(image, label, as_stored)
    label = _name_of(image, label)
    with _open_file(image, label, reduced=least is not None) as opened:
        if least is not None:
            on_its_side = not as_stored and _orientation(opened) in _BY_A_QUARTER
            decode_reduced(opened, least, on_its_side=on_its_side)
        return _decoded(opened, label, as_stored)


class ImageHeader(NamedTuple):
    """Format and size from the first bytes of a file."""

    format: str  # Pillow's name
    width: int  # pixels, before an orientation is applied
    height: int


def image_header(
    image: str | Path | bytes, label: str = "image", *, reduced: bool = False
) -> ImageHeader:
    """Return a file's format and size without decoding it; raise DataError as open_image does.

    ``reduced``: allow larger JPEGs, as open_image does with ``least``.
    """
    label = _name_of(image, label)
    with _open_file(image, label, reduced=reduced) as opened:
        return ImageHeader(opened.format or "", *opened.size)


@contextmanager
def _open_file(image: ImageInput, label: str, *, reduced: bool) -> Iterator[ImageFile.ImageFile]:
    """Open a file of a known format and size without decoding; errors become DataError."""
    if not isinstance(image, (str, Path, bytes, bytearray, memoryview)):
        raise DataError(
            f"{label}: expected a path, bytes, a PIL image or a uint8 array, "
            f"got {type(image).__name__}"
        )
    try:
        with warnings.catch_warnings(), _stream(image, label) as stream:
            # Size is checked by check_size, which raises an error instead of a warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            head = stream.read(_BRANDS_END)
            if _is_heic(head):
                _register_heif(label)
            stream.seek(0)
            # Pillow's own function refuses twice MAX_PIXELS.
            large = reduced and is_jpeg(head)
            with open_jpeg(stream) if large else Image.open(stream, formats=_formats()) as opened:
                if large:
                    check_jpeg_size(opened, stream, label)
                else:
                    check_size(opened, label)
                yield opened
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no such image: {label}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{label} has too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{label} is not a supported image: {READABLE}") from error
    # On broken bytes decoders raise struct.error, KeyError, ValueError and others.
    except Exception as error:
        raise _undecodable(label, error) from error


@cache
def _pillow_formats() -> tuple[str, ...]:
    """Import the decoders of the table's formats, and return those that this Pillow has."""
    available = []
    for image_format in FORMATS:
        if image_format.plugin:
            try:
                importlib.import_module(f"PIL.{image_format.plugin}")
            except ImportError:  # an older Pillow
                continue
            # A name without a decoder would make Pillow import every plugin.
            available += [image_format.name] if image_format.name in Image.OPEN else []
    return tuple(available)


def _formats() -> tuple[str, ...]:
    return (*_pillow_formats(), "HEIF") if "HEIF" in Image.OPEN else _pillow_formats()


def _stream(image: str | Path | bytes | bytearray | memoryview, label: str) -> IO[bytes]:
    if not isinstance(image, (str, Path)):
        return io.BytesIO(image)
    path = Path(image)
    if not is_file(path) and exists(path):  # opening a pipe would block, and a device has no end
        raise DataError(f"{label} is not a file")
    return path.open("rb")


def _name_of(image: ImageInput, label: str) -> str:
    return str(image) if isinstance(image, (str, Path)) else label


def _is_heic(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and any(brand in head for brand in _HEIC_BRANDS)


def _register_heif(label: str) -> None:
    if "HEIF" in Image.OPEN:
        return
    try:
        pillow_heif = importlib.import_module("pillow_heif")
    except ImportError as error:
        raise DataError(
            f"{label} is HEIC, which needs another package: pip install pillow-heif"
        ) from error
    pillow_heif.register_heif_opener()


def _check_format(image: ImageFile.ImageFile, label: str) -> None:
    """Refuse an opened image of a format outside the table: loading would run its decoder."""
    if image.format not in {image_format.name for image_format in FORMATS}:
        raise DataError(
            f"{label} is not a supported image: {image.format}; convert it first, with "
            "image.convert('RGB'), if you trust it"
        )


def _decoded(image: Image.Image, label: str, as_stored: bool) -> Image.Image:
    """Decode an image and convert it to upright 8-bit RGB."""
    check_size(image, label)
    try:
        image.load()
        turn = None if as_stored else _TURNS.get(_orientation(image))
        eight = _eight_bits(image, label)
        return eight if as_stored else _upright_rgb(eight, turn)
    except DataError:
        raise
    except Exception as error:
        raise _undecodable(label, error) from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 for upright; unlike Pillow, ignore XMP."""
    exif_bytes = image.info.get("exif")
    if not exif_bytes:
        return 1
    exif = Image.Exif()
    try:
        exif.load(exif_bytes)
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    # Broken metadata do not make an image unusable.
    except Exception:
        return 1
    return orientation if orientation in _TURNS else 1


def _upright_rgb(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    clear = image.has_transparency_data
    if turn is None and not clear and image.mode == "RGB":
        return image
    result = image if turn is None else image.transpose(turn)
    if clear:
        layer = result.convert("RGBA")
        result = Image.new("RGBA", layer.size, "white")
        result.alpha_composite(layer)
    if result is image or result.mode != "RGB":
        result = result.convert("RGB")
    # Without its EXIF, so that it is not rotated again when reopened.
    result.info = {}
    return result


def _eight_bits(image: Image.Image, label: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(_scaled(np.asarray(image), label))
    if image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "float"
        raise DataError(f"{label} has {kind} pixels of unknown range: scale them to 8 bits first")
    return image


def _scaled(array: npt.NDArray[np.uint16], label: str) -> npt.NDArray[np.uint8]:
    """Return 16-bit greys ``[H, W]`` or colours ``[H, W, C]`` as 8 bits."""
    maximum = int(array.max(initial=0))
    if 0 < maximum <= TWELVE_BITS:
        raise DataError(
            f"{label} has 16-bit pixels of at most {maximum}, which may be values of 12 bits or "
            "fewer: scale them to 8 bits first"
        )
    if array.ndim == 3:
        return (array >> 8).astype(np.uint8)  # as Pillow reads colours from files
    levels = np.rint(np.arange(1 << 16) / 257).astype(np.uint8)
    return levels[array]


def _undecodable(label: str, error: Exception) -> DataError:
    reason = first_line(error)
    return DataError(f"{label} cannot be decoded: {reason}")


def _from_array(array: np.ndarray, label: str) -> Image.Image:
    if array.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{label}: arrays must be uint8 [H, W, 3], got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise DataError(f"{label}: arrays must be uint8 [H, W, 3], got shape {list(array.shape)}")
    if array.size == 0:
        raise DataError(f"{label} is empty: shape {list(array.shape)}")
    if array.dtype == np.uint16:
        array = _scaled(array, label)
    return Image.fromarray(np.ascontiguousarray(array))
