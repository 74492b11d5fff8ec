"""The table of image formats that this project opens; all others are refused."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath
from typing import NamedTuple


class ImageFormat(NamedTuple):
    """A format by Pillow's name, with its file suffixes and the module that decodes it."""

    name: str
    suffixes: tuple[str, ...]  # lower case, without dot
    plugin: str  # Pillow's module; empty: another package's, or a variant of a format above


# Formats for which Pillow starts another program (EPS) or reads other files, and untested ones
# (FITS, PSD, XPM and some thirty more), are excluded: their decoders are never called.
FORMATS = (
    ImageFormat("JPEG", ("jpg", "jpeg", "jpe", "jfif"), "JpegImagePlugin"),
    ImageFormat("PNG", ("png",), "PngImagePlugin"),
    ImageFormat("WEBP", ("webp",), "WebPImagePlugin"),
    ImageFormat("GIF", ("gif",), "GifImagePlugin"),
    ImageFormat("BMP", ("bmp",), "BmpImagePlugin"),
    ImageFormat("TIFF", ("tif", "tiff"), "TiffImagePlugin"),
    ImageFormat("PPM", ("ppm", "pgm", "pbm", "pnm"), "PpmImagePlugin"),
    ImageFormat("AVIF", ("avif",), "AvifImagePlugin"),  # since Pillow 11.3
    ImageFormat("HEIF", ("heic", "heif"), ""),  # with pillow-heif
    ImageFormat("MPO", (), ""),  # a JPEG from some cameras
)
IMAGE_SUFFIXES = tuple(suffix for image_format in FORMATS for suffix in image_format.suffixes)
LISTED_KINDS = 5  # of skipped files
KIND_CHARS = 12
READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, or HEIC with pillow-heif"


def is_image_name(name: str | PurePath) -> bool:
    """Whether a file name has the suffix of an image, in any case.

    ``._NAME.jpg`` does not count: macOS stores attributes of ``NAME.jpg`` there.
    """
    path = PurePath(name)
    return path.suffix[1:].lower() in IMAGE_SUFFIXES and not path.name.startswith("._")


def file_kind(name: str) -> str:
    """Return the kind under which a skipped file is counted."""
    path = PurePath(name)
    if path.name.startswith("."):
        return "hidden"
    return path.suffix.lower()[:KIND_CHARS] or "without suffix"


def count_kinds(kinds: Counter[str]) -> str:
    """Return the counts as text, such as ``2 .svg, 1 hidden``; empty without files."""
    counts = [f"{count} {kind}" for kind, count in kinds.most_common(LISTED_KINDS)]
    remainder = sum(kinds.values()) - sum(count for _, count in kinds.most_common(LISTED_KINDS))
    return ", ".join([*counts, *([f"{remainder} more"] if remainder else [])])
