"""The pictures that the page searches: the starter kit's, or a folder of the user's."""

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
from tinyclip_edge.runtime.image_formats import READABLE, is_image_name
from tinyclip_edge.runtime.images import image_header, open_image
from tinyclip_edge.runtime.protocol import ImageInput

STARTER_SOURCE = "starter:test_style"
# What a first visitor sees; names that the starter kit draws in a recognisable way.
STARTER_EXAMPLES = (
    "cat face", "bicycle", "hamburger", "umbrella", "rocket", "cactus", "red apple", "airplane",
    "snowman", "octopus",
)  # fmt: skip
EXAMPLE_COUNT = 8
MAX_CAPTION = 200  # characters
MAX_DROPPED = 500  # files of one dropped gallery
MAX_DROPPED_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures with captions, decoded when they are needed."""

    name: str
    images: tuple[ImageInput, ...]
    captions: tuple[str, ...]
    skipped: int = 0  # files that were no readable image
    label_examples: bool = False  # captions are names worth offering as labels
    _thumbnails: dict[tuple[int, int], str] = field(default_factory=dict, repr=False)
    _marks: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError(f"gallery {self.name} has no readable image")
        if len(self.images) != len(self.captions):
            raise DataError(
                f"gallery {self.name} has {len(self)} images and {len(self.captions)} captions"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def mark(self) -> str | None:
        """Hash of what the pictures are, for a kept index; None when some exist only in memory.

        Files count by path, size and time of change, so that thousands are not read.
        """
        if not self._marks:
            digest = hashlib.sha256()
            for image in self.images:
                if isinstance(image, bytes):
                    digest.update(hashlib.sha256(image).digest())
                elif isinstance(image, Path):
                    digest.update(_file_mark(image))
                else:
                    return None
            self._marks.append(digest.hexdigest())
        return self._marks[0]

    def picture(self, index: int, edge: int | None = None) -> Image.Image:
        """Return the picture as RGB, no side over ``edge``; raise DataError if it is broken."""
        picture = open_image(self.images[index], self.captions[index])
        if edge is not None:
            if picture is self.images[index]:
                picture = picture.copy()
            picture.thumbnail((edge, edge))
        return picture

    def thumbnail(self, index: int, edge: int = 128) -> str:
        """Return a WebP data URI of at most ``edge`` pixels a side."""
        known = self._thumbnails.get((index, edge))
        if known is None:
            buffer = io.BytesIO()
            self.picture(index, edge).save(buffer, "webp", quality=85)
            known = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
            self._thumbnails[index, edge] = known
        return known

    def examples(self, count: int = EXAMPLE_COUNT) -> tuple[int, ...]:
        """Indices of pictures to offer first: well known names, then an even spread."""
        place = {caption: index for index, caption in reversed(list(enumerate(self.captions)))}
        chosen = [place[name] for name in STARTER_EXAMPLES if name in place][:count]
        spread = np.linspace(0, len(self) - 1, num=min(len(self), count - len(chosen)))
        indices = dict.fromkeys([*chosen, *spread.round().astype(int).tolist()])
        return tuple(index for index in indices if self._decodes(index))

    def _decodes(self, index: int) -> bool:
        try:
            self.picture(index)
        except DataError:
            return False
        return True


def open_gallery(folder: str | Path | None = None) -> Gallery:
    """Open a folder of images, or the starter kit's unseen-style pictures when none is given."""
    return folder_gallery(Path(folder)) if folder is not None else starter_gallery()


def starter_gallery() -> Gallery:
    """Open the evaluation set that every table of the project names."""
    from tinyclip_edge.evaluation import evaluation_set

    found = evaluation_set(STARTER_SOURCE)
    return Gallery("starter kit, unseen style", tuple(found.images), tuple(found.texts), 0, True)


def folder_gallery(folder: Path) -> Gallery:
    """Open every image below ``folder``; files that are none are counted and told in one line.

    Only headers are read here, so that a folder of thousands opens at once.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder of images: {folder}")
    files = sorted(path for path in folder.rglob("*") if is_image_name(path) and path.is_file())
    good = [path for path in files if _has_header(path)]
    skipped = len(files) - len(good)
    if skipped:
        _say(f"{folder}: skipped {skipped} of {len(files)} files that are no readable image")
    if not good:
        raise DataError(f"{folder} has no readable image ({READABLE})")
    return Gallery(folder.name or str(folder), tuple(good), _captions(good), skipped)


def dropped_gallery(files: Sequence[Path]) -> Gallery:
    """Read dropped files whole, for the server deletes them later; those that are none are counted.

    Raise DataError for too many files or bytes, or when no file is a picture.
    """
    if len(files) > MAX_DROPPED:
        raise DataError(f"{len(files)} files are too many: drop at most {MAX_DROPPED}")
    total = sum(path.stat().st_size for path in files if path.is_file())
    if total > MAX_DROPPED_BYTES:
        raise DataError(
            f"the files have {total / 1e6:.0f} MB together: drop at most "
            f"{MAX_DROPPED_BYTES / 1e6:.0f} MB, or start the demo with --images FOLDER"
        )
    good = [path for path in files if path.is_file() and _has_header(path)]
    if not good:
        raise DataError(f"none of the {len(files)} files is an image")
    pictures = tuple(path.read_bytes() for path in good)
    return Gallery("dropped files", pictures, _captions(good), len(files) - len(good))


def _captions(files: Sequence[Path]) -> tuple[str, ...]:
    return tuple(
        _beside(path) or path.stem.replace("_", " ").replace("-", " ") or "?" for path in files
    )


def _beside(path: Path) -> str:
    """Return the first line of ``NAME.txt`` beside the picture, empty without one."""
    try:
        lines = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    return " ".join(lines[0].split())[:MAX_CAPTION] if lines else ""


def _file_mark(path: Path) -> bytes:
    try:
        stat = path.stat()
    except OSError:
        return f"{path} gone\n".encode(errors="replace")
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="replace")


def _has_header(path: Path) -> bool:
    try:
        image_header(path)
    except DataError:
        return False
    return True


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
