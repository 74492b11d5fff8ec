"""Pairs of a COCO captions file: ``images`` with id and file_name, and their ``annotations``."""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.pairs import Pair, captions_of, concept_of
from tinyclip_edge.data.source import RowsPart
from tinyclip_edge.data.tables import PART
from tinyclip_edge.errors import DataError
from tinyclip_edge.json_text import read_json_file
from tinyclip_edge.limits import COCO_BYTES, COCO_VALUES
from tinyclip_edge.paths import is_file

SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class CocoPart(RowsPart):
    """A few hundred captioned images of a captions file."""

    folder: Path
    rows: tuple[tuple[str, tuple[str, ...]], ...]  # file name, captions
    fingerprint: str

    @property
    def size(self) -> None:
        """None, because the pairs are counted."""

    def __iter__(self) -> Iterator[Pair]:
        for name, captions in self.rows:
            yield Pair(name, self.folder / name, captions, concept_of(None, captions))


def open_coco(path: Path, losses: Losses) -> tuple[CocoPart, ...]:
    """Read a captions file; add faulty entries and images without a caption to ``losses``.

    Raises DataError if it is not a captions file, or if none of the first images exists.
    """
    content = read_json_file(path, DataError, limit=COCO_BYTES, values=COCO_VALUES)
    lists = [content.get(k) for k in ("images", "annotations")] if isinstance(content, dict) else []
    if not lists or not all(isinstance(entries, list) for entries in lists):
        raise DataError(
            f"{path} is not a COCO captions file ('images', 'annotations'); name a file of "
            "captions in JSON lines .jsonl; img2dataset's _stats.json has no captions: use its "
            ".tar files"
        )
    names = dict(_names(path, lists[0] or [], losses))
    captions = _captions(path, lists[1] or [], names, losses)
    rows = [(name, tuple(captions[key])) for key, name in names.items() if key in captions]
    if not rows:
        raise DataError(f"{path} has no image with a caption (file_name, image_id, caption)")
    if bare := len(names) - len(rows):
        losses.add_omitted(f"{path}: skipped {bare:,} images without a caption")
    losses.count(str(path), len(rows))
    folder = _folder(path, [name for name, _ in rows[:PART]])
    digest = hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
    return tuple(
        CocoPart(folder, tuple(rows[start : start + PART]), f"{digest}@{start}")
        for start in range(0, len(rows), PART)
    )


def _names(path: Path, images: list[Any], losses: Losses) -> Iterator[tuple[int | str, str]]:
    ids: set[int | str] = set()
    for number, image in enumerate(images, 1):
        entry = image if isinstance(image, dict) else {}
        key, name = entry.get("id"), entry.get("file_name")
        if not isinstance(key, (int, str)) or not isinstance(name, str) or not _within(name):
            losses.add_fault(f"{path}: image {number} has no id, or no file_name in the folder")
            continue
        if key in ids:
            losses.add_fault(f"{path}: image {number} has the same id as an earlier one, {key}")
            continue
        ids.add(key)
        yield key, name


def _within(name: str) -> bool:
    """Return whether a name is valid UTF-8 and stays inside the folder of images."""
    plain = name.isprintable() and name.encode("utf-8", "replace").decode() == name
    return plain and bool(name) and not os.path.isabs(name) and ".." not in Path(name).parts  # noqa: PTH117


def _captions(
    path: Path, annotations: list[Any], names: dict[int | str, str], losses: Losses
) -> dict[int | str, dict[str, None]]:
    captions: dict[int | str, dict[str, None]] = {}
    for number, annotation in enumerate(annotations, 1):
        entry = annotation if isinstance(annotation, dict) else {}
        key = entry.get("image_id")
        try:
            texts = captions_of(entry.get("caption"))
        except (TypeError, UnicodeError):
            texts = ()
        if not texts or not isinstance(key, (int, str)) or key not in names:
            losses.add_fault(f"{path}: annotation {number} has no caption or no image")
            continue
        captions.setdefault(key, {}).update(dict.fromkeys(texts))
    return captions


def _folder(path: Path, names: list[str]) -> Path:
    """Return the folder of images: next to the file, in a folder there, or one level up."""
    split = path.stem.rpartition("_")[2]  # captions_val2017.json belongs to val2017/
    places = [
        place / inner
        for place in (path.parent, path.parent.parent)
        for inner in ("", "images", split)
    ]
    for folder in places:
        if any(is_file(folder / name) for name in names):
            return folder
    raise DataError(
        f"{path}: none of the first {len(names):,} images exists; looked in "
        f"{', '.join(map(str, places))}"
    )
