"""A gallery of pictures with captions: the starter kit's, a folder, or uploaded files."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tinyclip_edge.errors import DataError
from tinyclip_edge.limits import CAPTION_BYTES
from tinyclip_edge.paths import exists, read_bounded
from tinyclip_edge.runtime.image_formats import READABLE, is_image_name
from tinyclip_edge.runtime.images import image_header, open_image
from tinyclip_edge.runtime.protocol import ImageInput

STARTER_SOURCE = "starter:test_style"
# Examples on the first visit; names whose pictures in the starter kit are easy to recognise.
STARTER_EXAMPLES = (
    "cat face", "bicycle", "hamburger", "umbrella", "rocket", "cactus", "red apple", "airplane",
    "snowman", "octopus",
)  # fmt: skip
EXAMPLE_COUNT = 8
MAX_CAPTION = 200  # characters
MAX_UPLOAD_FILES = 500  # files per gallery
MAX_UPLOAD_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures with captions, decoded on demand."""

    name: str
    images: tuple[ImageInput, ...]
    captions: tuple[str, ...]
    skipped: tuple[str, ...] = ()  # names of files that are not readable images
    label_examples: bool = False  # whether captions are suggested as labels
    folder: Path | None = None  # on this machine
    _thumbnails: dict[tuple[int, int], str] = field(default_factory=dict, repr=False)
    _fingerprints: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError(f"gallery {self.name} has no readable image")
        if len(self.images) != len(self.captions):
            raise DataError(
                f"gallery {self.name} has {len(self):,} images and {len(self.captions):,} captions"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str | None:
        """Hash that identifies the pictures for a stored index; None if some are only in memory.

        Files are identified by path, size and modification time, so that they need not be read.
        """
        if not self._fingerprints:
            digest = hashlib.sha256()
            for image in self.images:
                if isinstance(image, bytes):
                    digest.update(hashlib.sha256(image).digest())
                elif isinstance(image, Path):
                    digest.update(_file_fingerprint(image))
                else:
                    return None
            self._fingerprints.append(digest.hexdigest())
        return self._fingerprints[0]

    def picture(self, index: int, edge: int | None = None) -> Image.Image:
        """Return the picture as RGB, no side longer than ``edge``; raise DataError if broken."""
        picture = open_image(self.images[index], self.captions[index])
        if edge is not None:
            if picture is self.images[index]:
                picture = picture.copy()
            picture.thumbnail((edge, edge))
        return picture

    def thumbnail(self, index: int, edge: int = 128) -> str:
        """Return a WebP data URI of at most ``edge`` pixels per side."""
        uri = self._thumbnails.get((index, edge))
        if uri is None:
            buffer = io.BytesIO()
            self.picture(index, edge).save(buffer, "webp", quality=85)
            uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
            self._thumbnails[index, edge] = uri
        return uri

    def examples(self, count: int = EXAMPLE_COUNT) -> tuple[int, ...]:
        """Return the indices of the examples: well-known names first, then evenly spaced ones."""
        index_by_caption = {
            caption: index for index, caption in reversed(list(enumerate(self.captions)))
        }
        well_known = [
            index_by_caption[name] for name in STARTER_EXAMPLES if name in index_by_caption
        ][:count]
        evenly_spaced = np.linspace(0, len(self) - 1, num=min(len(self), count - len(well_known)))
        indices = dict.fromkeys([*well_known, *evenly_spaced.round().astype(int).tolist()])
        return tuple(index for index in indices if self._decodes(index))

    def _decodes(self, index: int) -> bool:
        try:
            self.picture(index)
        except DataError:
            return False
        return True


def open_gallery(folder: str | Path | None = None) -> Gallery:
    """Open a folder of images, or the starter kit's unseen-style pictures for None."""
    return folder_gallery(Path(folder)) if folder is not None else starter_gallery()


def starter_gallery() -> Gallery:
    """Open the starter kit's evaluation set in an unseen style."""
    from tinyclip_edge.evaluation import evaluation_set

    starter_set = evaluation_set(STARTER_SOURCE)
    return Gallery(
        "starter kit, unseen style",
        tuple(starter_set.images),
        tuple(starter_set.texts),
        label_examples=True,
    )


def folder_gallery(folder: Path) -> Gallery:
    """Open every image below ``folder``; unreadable files are skipped, with one line on stderr.

    Only headers are read, so that a folder of thousands opens immediately. Raises DataError if none
    is readable.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder of images: {folder}")
    files = sorted(path for path in folder.rglob("*") if is_image_name(path) and path.is_file())
    readable, skipped = _sorted_out(files)
    if skipped:
        _log(
            f"{folder}: skipped {len(skipped):,} of {len(files):,} files that are not readable "
            "images"
        )
    if not readable:
        raise DataError(f"{folder} has no readable image ({READABLE})")
    return Gallery(
        folder.name or str(folder), tuple(readable), _captions(readable), skipped, folder=folder
    )


def uploaded_gallery(files: Sequence[Path]) -> Gallery:
    """Read uploaded files into memory, since the server deletes them; unreadable ones are skipped.

    Raises DataError for too many files or bytes, or when no file is an image.
    """
    if len(files) > MAX_UPLOAD_FILES:
        raise DataError(f"{len(files):,} files are too many: drop at most {MAX_UPLOAD_FILES}")
    total = sum(path.stat().st_size for path in files if path.is_file())
    if total > MAX_UPLOAD_BYTES:
        raise DataError(
            f"together the files have {total / 1e6:.0f} MB: drop at most "
            f"{MAX_UPLOAD_BYTES / 1e6:.0f} MB, or start the demo with --images FOLDER"
        )
    readable, skipped = _sorted_out(files)
    if not readable:
        raise DataError(f"none of the {len(files):,} files is an image")
    pictures = tuple(path.read_bytes() for path in readable)
    return Gallery("dropped files", pictures, _captions(readable), skipped)


def _captions(files: Sequence[Path]) -> tuple[str, ...]:
    """Return the first line of ``NAME.txt`` beside each picture, or else its file name as words.

    Reports on stderr how many of these files cannot be read.
    """
    captions, faults = [], []
    for path in files:
        text = ""
        if exists(path.with_suffix(".txt")):
            try:
                text = _first_line(path.with_suffix(".txt"))
            except DataError as error:
                faults.append(error)
        captions.append(text or path.stem.replace("_", " ").replace("-", " ") or "?")
    if faults:
        count = f"{len(faults):,} caption file{'s' if len(faults) > 1 else ''}"
        _log(f"{count} cannot be read; file names serve as captions instead: {faults[0]}")
    return tuple(captions)


def _first_line(path: Path) -> str:
    try:
        lines = read_bounded(path, DataError, limit=CAPTION_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error
    return " ".join(lines[0].split())[:MAX_CAPTION] if lines else ""


def _file_fingerprint(path: Path) -> bytes:
    try:
        stat = path.stat()
    except OSError:
        return f"{path} gone\n".encode(errors="replace")
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="replace")


def _sorted_out(files: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """Return the readable images, and the names of the other files."""
    readable = {path: path.is_file() and _has_header(path) for path in files}
    return [path for path in files if readable[path]], tuple(
        path.name for path in files if not readable[path]
    )


def _has_header(path: Path) -> bool:
    try:
        image_header(path)
    except DataError:
        return False
    return True


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
