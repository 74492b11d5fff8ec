"""Pairs of an image folder: captions in text files beside the images, or in a metadata file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinyclip_edge.config.limits import USUAL, LimitsConfig
from tinyclip_edge.data.pairs import Pair, caption_lines, concept_of
from tinyclip_edge.data.source import Part
from tinyclip_edge.data.tables import PART, open_table
from tinyclip_edge.errors import DataError
from tinyclip_edge.limits import ROW_BYTES
from tinyclip_edge.paths import is_file, read_bounded
from tinyclip_edge.runtime.image_formats import IMAGE_SUFFIXES, is_image_name

METADATA = ("metadata.jsonl", "captions.jsonl", "metadata.csv")
FORMS = f"NAME.txt beside NAME.jpg, or a {METADATA[0]} with file_name and text"


@dataclass(frozen=True, slots=True)
class FolderPart:
    """Some hundred images of a folder, captions beside them."""

    folder: Path
    names: tuple[str, ...]  # relative, with suffix

    @property
    def fingerprint(self) -> str:
        """Hash of the names."""
        return hashlib.sha256("\n".join(self.names).encode("utf-8", "replace")).hexdigest()[:16]

    @property
    def pairs(self) -> int:
        """Its images."""
        return len(self.names)

    @property
    def at_most(self) -> int:
        """Its images."""
        return len(self.names)

    @property
    def size(self) -> None:
        """Of no use: the pairs are counted."""

    def __iter__(self) -> Iterator[Pair]:
        for name in self.names:
            image = self.folder / name
            captions = _captions(image.with_suffix(".txt"))
            yield Pair(key=name, image=image, captions=captions, concept=concept_of(None, captions))


def open_folder(folder: Path, limits: LimitsConfig = USUAL) -> tuple[Part, ...]:
    """Find the pairs of a folder and of the folders in it, sorted by name.

    Raises DataError when images have no captions, as in folders that are classes.
    """
    for name in METADATA:
        if is_file(folder / name):
            return open_table(folder / name, limits)
    names, bare = _images(folder)
    if not names and not bare:
        raise DataError(
            f"folder {folder} has no images ({', '.join(IMAGE_SUFFIXES)}); for shards give "
            f"{folder}/*.tar"
        )
    if not names:
        raise DataError(
            f"folder {folder} has {len(bare)} images without captions: class folders are no pairs; "
            f"give {FORMS}"
        )
    if bare:
        raise DataError(
            f"folder {folder}: {len(bare)} of {len(bare) + len(names)} images have no caption, "
            f"first {bare[0]}; give {FORMS}"
        )
    return tuple(
        FolderPart(folder, tuple(names[start : start + PART]))
        for start in range(0, len(names), PART)
    )


def captioned(folder: Path) -> bool:
    """Whether a folder is one of pairs: it has a metadata file, or a caption beside an image."""
    if any(is_file(folder / name) for name in METADATA):
        return True
    return any(
        is_image_name(file) and f"{os.path.splitext(file)[0]}.txt" in files  # noqa: PTH122
        for _, _, files in os.walk(folder)
        for file in files
    )


def _images(folder: Path) -> tuple[list[str], list[str]]:
    """Return the images with a text file beside them, and those without."""
    names: list[str] = []
    bare: list[str] = []
    for place, _, files in os.walk(folder):
        there = set(files)
        for file in files:
            if is_image_name(file):
                stem = os.path.splitext(file)[0]  # noqa: PTH122
                name = (Path(place) / file).relative_to(folder).as_posix()
                (names if f"{stem}.txt" in there else bare).append(name)
    return sorted(names), sorted(bare)


def _captions(path: Path) -> tuple[str, ...]:
    try:
        captions = caption_lines(read_bounded(path, DataError, limit=ROW_BYTES).decode())
    except UnicodeDecodeError as error:
        raise DataError(f"caption {path} cannot be read ({error})") from None
    if not captions:
        raise DataError(f"caption {path} is empty")
    return captions
