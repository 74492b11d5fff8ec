"""Images in one folder a class, in a directory or a tar, read without unpacking."""

from __future__ import annotations

import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from tinyclip_edge.config.limits import USUAL
from tinyclip_edge.data.tar_members import (
    BROKEN,
    MeteredStream,
    member_content,
    member_headers,
    open_tar,
)
from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation.class_names import WORDNET_ID, class_names
from tinyclip_edge.limits import NAMES_BYTES
from tinyclip_edge.paths import is_file, is_folder, read_bounded
from tinyclip_edge.runtime.image_formats import READABLE, is_image_name

CAPTIONS = frozenset({".txt", ".json", ".cls"})  # their presence makes a tar a webdataset shard
ANNOTATIONS = "val_annotations.txt"  # of Tiny-ImageNet: file name, tab, WordNet id, tab, box
SPLITS = frozenset({"train", "val", "valid", "validation", "test"})
LAYOUT = "give one folder a class (DIR/CLASS/IMAGE)"
_LOOK_AHEAD = 50  # members of a tar that tell what it is
_NAMED = re.compile(r"n\d{8}_.")  # as in n01440764_tench.JPEG


def holds_class_images(path: Path) -> bool:
    """Whether the path is a folder without captions, or a tar of images without any beside them."""
    from tinyclip_edge.data.folders import captioned

    if is_folder(path):
        return not captioned(path)
    if not is_file(path):
        return False
    names = []
    try:
        names += [member.name for _, member in islice(_members(path), _LOOK_AHEAD)]
    except (DataError, *BROKEN):
        return False  # the reader of shards says what is wrong with it
    suffixes = {PurePosixPath(name).suffix.lower() for name in names}
    return any(map(is_image_name, names)) and not CAPTIONS & suffixes


@dataclass(frozen=True, slots=True)
class ClassImage:
    """One image file of a folder, or the encoded member of a tar, and what it shows."""

    name: str  # inside the folder or tar
    image: Path | bytes
    label: str


@dataclass(frozen=True, slots=True)
class ClassImages:
    """All images of a folder or tar, and what is to be said of their labels."""

    images: tuple[ClassImage, ...]
    notes: tuple[str, ...] = ()


def class_images(path: Path, limit: int | None = None) -> ClassImages:
    """Return all images with their class; with a limit, the first ones are even over the classes.

    The class is the folder that differs from image to image, or what Tiny-ImageNet's
    ``val_annotations.txt`` says; names come from ``class_names``. Raise DataError when there is no
    image, when folders are no classes, or the tar is broken.
    """
    found = list(_from_folder(path) if is_folder(path) else _from_tar(path))
    if not found:
        raise DataError(f"{path} holds no image ({READABLE})")
    labels = _annotated(path, found) or _folders(path, [one.name for one in found])
    found = [replace(one, label=label) for one, label in zip(found, labels, strict=True)]
    names = class_names(path if is_folder(path) else path.parent, labels)
    bare = sorted({label for label in labels if WORDNET_ID.fullmatch(label)} - set(names))
    notes = [
        f"{len(bare)} classes have WordNet ids for names ({first} …), which no model knows; put "
        f"classes.tsv, words.txt or classnames.txt beside the images"
        for first in bare[:1]
    ]
    turns = _in_turns(found, limit)
    return ClassImages(
        tuple(replace(one, label=names.get(one.label, _readable(one.label))) for one in turns),
        tuple(notes),
    )


def _from_folder(path: Path) -> Iterator[ClassImage]:
    for file in sorted(path.rglob("*")):
        if is_image_name(file) and file.is_file():
            yield ClassImage(file.relative_to(path).as_posix(), file, "")


def _from_tar(path: Path) -> Iterator[ClassImage]:
    try:
        for tar, member in _members(path):
            if is_image_name(member.name):
                yield ClassImage(member.name, member_content(tar, member), "")
    except BROKEN as error:
        raise DataError(f"{path} is cut off or broken: {error}") from error


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with open_tar(path) as raw:
        yield from member_headers(str(path), MeteredStream(str(path), raw, USUAL), USUAL)


def _annotated(path: Path, found: Sequence[ClassImage]) -> list[str] | None:
    """Return the labels that Tiny-ImageNet lists for its validation images, where it does."""
    file = next(
        (one / ANNOTATIONS for one in (path, path.parent) if is_file(one / ANNOTATIONS)), None
    )
    if file is None or len({str(PurePosixPath(one.name).parent) for one in found}) > 1:
        return None
    text = read_bounded(file, DataError, limit=NAMES_BYTES).decode("utf-8", "replace")
    rows = (line.split("\t") for line in text.splitlines() if line.strip())
    listed = {row[0]: row[1] for row in rows if len(row) > 1}
    names = [PurePosixPath(one.name).name for one in found]
    missing = [name for name in names if name not in listed]
    if missing:
        raise DataError(f"{file} has no line for {len(missing)} images, first {missing[0]}")
    return [listed[name] for name in names]


def _folders(path: Path, names: Sequence[str]) -> list[str]:
    """Return the class of each image: its innermost folder of a name that stands in one place.

    So ``n01443537/images/0.JPEG`` is of ``n01443537``, for ``images`` is in every class.
    """
    parents = [tuple(p for p in PurePosixPath(name).parent.parts if p != ".") for name in names]
    if not any(parents):
        stems = [PurePosixPath(name).stem for name in names]
        if all(map(_NAMED.match, stems)):
            return stems  # a WordNet id and a name, one image a class or more
        raise DataError(f"{path} has images and no folders; the folder is the class: {LAYOUT}")
    loose = [name for name, own in zip(names, parents, strict=True) if not own]
    if loose:
        raise DataError(f"{path}: {len(loose)} images are in no class folder, first {loose[0]}")
    splits = sorted({own[0] for own in parents} & SPLITS)
    if len(splits) > 1:
        raise DataError(f"{path} holds {', '.join(splits)}; give one of them: {path / splits[-1]}")
    if len(set(map(len, parents))) > 1:  # of several depths: the outermost that differs
        same = next(
            level for level, own in enumerate(zip(*parents, strict=False)) if len(set(own)) > 1
        )
        return [own[same] for own in parents]
    for level in range(1, len(parents[0]) + 1):
        places: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for own in parents:
            places[own[-level]].add(own[:-level])
        if len(places) > 1 and all(len(above) == 1 for above in places.values()):
            return [own[-level] for own in parents]
    if len(set(parents)) == 1:
        return [parents[0][-1]] * len(parents)
    raise DataError(f"{path}: which folder is the class cannot be told; {LAYOUT}")


def _readable(label: str) -> str:
    return (label[10:] if _NAMED.match(label) else label).replace("_", " ")


def _in_turns(found: list[ClassImage], limit: int | None) -> list[ClassImage]:
    if limit is None or limit >= len(found):
        return found
    place: dict[str, int] = defaultdict(int)
    turns = []
    for position, one in enumerate(found):
        turns.append((place[one.label], position))
        place[one.label] += 1
    return [found[position] for _, position in sorted(turns)]
