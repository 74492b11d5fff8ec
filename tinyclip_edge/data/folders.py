"""Pairs of an image folder, with captions in text files beside the images or in a metadata file."""

from __future__ import annotations

import hashlib
import os.path
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tinyclip_edge.config.source_options import DEFAULT, SourceOptions
from tinyclip_edge.data.cuts import FaultySampleError, Losses
from tinyclip_edge.data.kinds import PARQUET
from tinyclip_edge.data.pairs import Pair, caption_lines, concept_of
from tinyclip_edge.data.source import Part
from tinyclip_edge.data.tables import PART, open_table
from tinyclip_edge.errors import DataError
from tinyclip_edge.limits import ROW_BYTES
from tinyclip_edge.paths import files_below, is_file, read_bounded
from tinyclip_edge.runtime.image_formats import (
    IMAGE_SUFFIXES,
    count_kinds,
    file_kind,
    is_image_name,
)

METADATA = ("metadata.jsonl", "captions.jsonl", "metadata.csv")
CAPTION = ".txt"  # in upper or lower case
FORMS = f"NAME.txt beside NAME.jpg, or a {METADATA[0]} with file_name and text"


@dataclass(frozen=True, slots=True)
class FolderPart:
    """A few hundred images of a folder with caption files."""

    folder: Path
    rows: tuple[tuple[str, str], ...]  # relative image name, suffix of its caption file or ""
    losses: Losses = field(default_factory=Losses, compare=False)

    @property
    def fingerprint(self) -> str:
        """Hash of the names."""
        names = "\n".join(name for name, _ in self.rows)
        return hashlib.sha256(names.encode("utf-8", "replace")).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Key in ``losses``."""
        return f"{self.folder} {self.rows[0][0]}"

    @property
    def pairs(self) -> None:
        """None until the captions are read."""

    @property
    def at_most(self) -> int:
        """The number of its images."""
        return len(self.rows)

    @property
    def size(self) -> None:
        """None, because the images are counted."""

    def __iter__(self) -> Iterator[Pair]:
        count = 0
        for name, suffix in self.rows:
            image = self.folder / name
            try:
                captions = _captions(image.with_suffix(suffix)) if suffix else ()
            except FaultySampleError as error:
                self.losses.add_fault(str(error))
                continue
            count += 1
            yield Pair(key=name, image=image, captions=captions, concept=concept_of(None, captions))
        self.losses.correct(self.name, count)


def open_folder(folder: Path, losses: Losses, options: SourceOptions = DEFAULT) -> tuple[Part, ...]:
    """Return the pairs of a folder and its subfolders, sorted by name.

    Images without a caption and the number of other files are added to ``losses``. Raises DataError
    if no image has a caption, as in class folders. With ``options.captionless`` such images are
    pairs too.
    """
    for name in METADATA:
        if is_file(folder / name):
            listed = open_table(folder / name, losses, options)
            there = sum(map(is_image_name, files_below(folder, DataError)))
            if (more := there - sum(part.pairs for part in listed)) > 0:
                losses.add_omitted(
                    f"{folder / name} has no row for {more} of {there:,} images in the folder"
                )
            return listed
    names = list(files_below(folder, DataError))
    images = [name for name in names if is_image_name(name)]
    suffixes = _caption_suffixes(names)
    rows = sorted(
        (name, suffixes.get(_stem(name), ""))
        for name in images
        if options.captionless or _stem(name) in suffixes
    )
    if not rows:
        raise _no_pairs(folder, names, len(images))
    for name in images:
        if _stem(name) not in suffixes and not options.captionless:
            losses.add_fault(f"{folder / name} has no caption ({Path(name).stem}{CAPTION})")
    used = {*images, *(_stem(name) + suffix for name, suffix in rows)}
    if others := count_kinds(Counter(file_kind(name) for name in names if name not in used)):
        losses.add_omitted(f"folder {folder}: skipped files that do not belong to a pair: {others}")
    parts = tuple(
        FolderPart(folder, tuple(rows[start : start + PART]), losses)
        for start in range(0, len(rows), PART)
    )
    for part in parts:  # for all parts, like the faults above: a run may read only the first part
        losses.count(part.name, part.at_most)
    return parts


def captioned(folder: Path) -> bool:
    """Whether a folder contains pairs: a metadata file, or a caption beside an image."""
    names = list(files_below(folder, DataError))
    if any(PurePosixPath(name).name in METADATA for name in names):
        return True
    suffixes = _caption_suffixes(names)
    return any(is_image_name(name) and _stem(name) in suffixes for name in names)


def _caption_suffixes(names: list[str]) -> dict[str, str]:
    """Return the suffix of each text file by its stem."""
    split = (os.path.splitext(name) for name in names)  # noqa: PTH122
    return {stem: suffix for stem, suffix in split if suffix.lower() == CAPTION}


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


def _no_pairs(folder: Path, names: list[str], images: int) -> DataError:
    """Return an error that explains why a folder contains no pairs."""
    tables = [name for name in names if PurePosixPath(name).name in METADATA]
    if tables:
        where = ", ".join(str(folder / PurePosixPath(name).parent) for name in tables[:3])
        return DataError(
            f"folder {folder} has no {PurePosixPath(tables[0]).name} of its own, but "
            f"{len(tables):,} of the folders in it {'has' if len(tables) == 1 else 'have'} one; "
            f"use {where}"
        )
    if parquet := [name for name in names if name.lower().endswith(".parquet")]:
        return DataError(f"{folder / parquet[0]} is {PARQUET}")
    if images:
        return DataError(
            f"folder {folder} has {images:,} images without captions: class folders do not contain "
            f"pairs; use {FORMS}"
        )
    others = count_kinds(Counter(map(file_kind, names)))
    return DataError(
        f"folder {folder} has no images "
        f"({', '.join(IMAGE_SUFFIXES)}){f', but {others}' if others else ''}; for shards use "
        f"{folder}/*.tar"
    )


def _captions(path: Path) -> tuple[str, ...]:
    try:
        captions = caption_lines(read_bounded(path, DataError, limit=ROW_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise FaultySampleError(f"caption {path} cannot be read ({error})") from None
    except DataError as error:
        raise FaultySampleError(f"caption {path}: {error}") from None
    if not captions:
        raise FaultySampleError(f"caption {path} is empty")
    return captions
