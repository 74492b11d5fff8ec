"""Images in one folder a class, in a directory or a tar, read without unpacking."""

from __future__ import annotations

import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
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
from tinyclip_edge.runtime.image_formats import READABLE, is_image_name

CAPTIONS = frozenset({".txt", ".json", ".cls"})  # their presence makes a tar a webdataset shard
CLASS_FILE = "classes.tsv"  # folder name, tab, names separated by commas
_LOOK_AHEAD = 50  # members of a tar that tell what it is
_WORDNET_ID = re.compile(r"^n\d{8}_")


def holds_class_images(path: Path) -> bool:
    """Whether the path is a folder, or a tar of images without captions beside them."""
    if path.is_dir():
        return True
    if not path.is_file():
        return False
    names = []
    try:
        names += [member.name for _, member in islice(_members(path), _LOOK_AHEAD)]
    except (DataError, *BROKEN):
        return False  # the reader of shards says what is wrong with it
    captioned = CAPTIONS & {PurePosixPath(name).suffix.lower() for name in names}
    return any(map(is_image_name, names)) and not captioned


@dataclass(frozen=True, slots=True)
class ClassImage:
    """One image file of a folder, or the encoded member of a tar, and what it shows."""

    name: str  # inside the folder or tar
    image: Path | bytes
    label: str


def class_images(path: Path, limit: int | None = None) -> list[ClassImage]:
    """Return all images with their class; with a limit, the first ones are even over the classes.

    The folder names the class, or the file where there is no folder; ``classes.tsv`` beside them
    may give better names. Raise DataError when there is no image or the tar is broken.
    """
    found = list(_from_folder(path) if path.is_dir() else _from_tar(path))
    if not found:
        raise DataError(f"{path} holds no image ({READABLE})")
    names = _class_names((path if path.is_dir() else path.parent) / CLASS_FILE)
    return [
        replace(one, label=names.get(one.label, _readable(one.label)))
        for one in _in_turns(found, limit)
    ]


def _from_folder(path: Path) -> Iterator[ClassImage]:
    for file in sorted(path.rglob("*")):
        if is_image_name(file) and file.is_file():
            name = file.relative_to(path).as_posix()
            yield ClassImage(name, file, _label(name))


def _from_tar(path: Path) -> Iterator[ClassImage]:
    try:
        for tar, member in _members(path):
            if is_image_name(member.name):
                yield ClassImage(member.name, member_content(tar, member), _label(member.name))
    except BROKEN as error:
        raise DataError(f"{path} is cut off or broken: {error}") from error


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with open_tar(path) as raw:
        yield from member_headers(str(path), MeteredStream(str(path), raw, USUAL), USUAL)


def _label(name: str) -> str:
    inside = PurePosixPath(name)
    parents = [part for part in inside.parent.parts if part != "."]
    return parents[-1] if parents else inside.stem


def _readable(label: str) -> str:
    return _WORDNET_ID.sub("", label).replace("_", " ")


def _in_turns(found: list[ClassImage], limit: int | None) -> list[ClassImage]:
    if limit is None or limit >= len(found):
        return found
    place: dict[str, int] = defaultdict(int)
    turns = []
    for position, one in enumerate(found):
        turns.append((place[one.label], position))
        place[one.label] += 1
    return [found[position] for _, position in sorted(turns)]


def _class_names(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    names = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        label, tab, text = line.partition("\t")
        if not tab or not text.strip():
            raise DataError(f"{path}:{number}: expected a folder name, a tab and a class name")
        names[label] = text.split(",")[0].strip()
    return names
