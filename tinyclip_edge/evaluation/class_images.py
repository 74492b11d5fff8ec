"""Images in one folder per class, in a directory or in a tar that is read without unpacking."""

from __future__ import annotations

import re
import tarfile
from collections import Counter, defaultdict
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
from tinyclip_edge.evaluation.class_names import WORDNET_ID, class_names, shared_names
from tinyclip_edge.limits import NAMES_BYTES
from tinyclip_edge.paths import files_below, is_file, is_folder, read_bounded
from tinyclip_edge.runtime.image_formats import READABLE, count_kinds, file_kind, is_image_name

CAPTIONS = frozenset({".txt", ".json", ".cls"})  # with them, a tar is a webdataset shard
ABOUT = frozenset({".txt", ".tsv", ".csv", ".json", ".xml", ".md"})  # lists and notes, no images
ANNOTATIONS = "val_annotations.txt"  # of Tiny-ImageNet: file name, tab, WordNet id, tab, box
SPLITS = frozenset({"train", "val", "valid", "validation", "test"})
LAYOUT = "use one folder per class (DIR/CLASS/IMAGE)"
_LOOK_AHEAD = 50  # members of a tar that are inspected to detect its layout
_WORDNET_LABEL = re.compile(r"n\d{8}_.")  # as in n01440764_tench.JPEG


def is_class_image_source(path: Path) -> bool:
    """Whether the path is a folder or tar of images without captions."""
    from tinyclip_edge.data.folders import captioned

    if is_folder(path):
        return not captioned(path)
    if not is_file(path):
        return False
    names = []
    try:
        names += [member.name for _, member in islice(_members(path), _LOOK_AHEAD)]
    except (DataError, *BROKEN):
        return False  # the reader of shards reports what is wrong
    suffixes = {PurePosixPath(name).suffix.lower() for name in names}
    return any(map(is_image_name, names)) and not CAPTIONS & suffixes


@dataclass(frozen=True, slots=True)
class ClassImage:
    """An image file of a folder, or an encoded member of a tar, with its class."""

    name: str  # inside the folder or tar
    image: Path | bytes
    label: str


@dataclass(frozen=True, slots=True)
class ClassImages:
    """All images of a folder or tar, with notes on their labels."""

    images: tuple[ClassImage, ...]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()  # names of all classes, including those that a limit leaves out


def class_images(path: Path, limit: int | None = None) -> ClassImages:
    """Return all images with their class, or up to ``limit``, spread evenly over the classes.

    The class is the folder level that differs between images, or the entry in Tiny-ImageNet's
    ``val_annotations.txt``; names come from ``class_names``. Raises DataError when there is no
    image, when folders are not classes, or when the tar is broken.
    """
    skipped_kinds: Counter[str] = Counter()
    images = list(
        _from_folder(path, skipped_kinds) if is_folder(path) else _from_tar(path, skipped_kinds)
    )
    skipped = count_kinds(skipped_kinds)
    if not images:
        raise DataError(f"{path} has no image ({READABLE}){f', but {skipped}' if skipped else ''}")
    labels = _annotated(path, images) or _folders(path, [image.name for image in images])
    images = [replace(image, label=label) for image, label in zip(images, labels, strict=True)]
    names = class_names(path if is_folder(path) else path.parent, labels)
    unnamed = sorted({label for label in labels if WORDNET_ID.fullmatch(label)} - set(names))
    notes = [
        f"{len(unnamed):,} classes are named by WordNet ids ({first} …), which models do not know; "
        "put classes.tsv, words.txt or classnames.txt beside the images"
        for first in unnamed[:1]
    ]
    if skipped:
        notes.append(f"{path}: skipped files that are not images: {skipped}")
    texts = {label: names.get(label, _readable(label)) for label in dict.fromkeys(labels)}
    selected = _interleave_classes(images, limit)
    return ClassImages(
        tuple(replace(image, label=texts[image.label]) for image in selected),
        (*notes, *shared_names(texts.values())),
        tuple(texts.values()),
    )


def _from_folder(path: Path, skipped_kinds: Counter[str]) -> Iterator[ClassImage]:
    for name in sorted(files_below(path, DataError), key=lambda name: name.split("/")):
        if is_image_name(name):
            yield ClassImage(name, path / name, "")
        else:
            _count(skipped_kinds, name)


def _from_tar(path: Path, skipped_kinds: Counter[str]) -> Iterator[ClassImage]:
    try:
        for tar, member in _members(path):
            if is_image_name(member.name):
                yield ClassImage(member.name, member_content(tar, member), "")
            else:
                _count(skipped_kinds, member.name)
    except BROKEN as error:
        raise DataError(f"{path} is truncated or damaged: {error}") from error


def _count(skipped_kinds: Counter[str], name: str) -> None:
    kind = file_kind(name)
    if kind not in ABOUT:
        skipped_kinds[kind] += 1


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with open_tar(path) as raw:
        yield from member_headers(str(path), MeteredStream(str(path), raw, USUAL), USUAL)


def _annotated(path: Path, images: Sequence[ClassImage]) -> list[str] | None:
    """Return the labels from Tiny-ImageNet's list of validation images, None without a list."""
    files = (folder / ANNOTATIONS for folder in (path, path.parent))
    file = next(filter(is_file, files), None)
    if file is None or len({str(PurePosixPath(image.name).parent) for image in images}) > 1:
        return None
    text = read_bounded(file, DataError, limit=NAMES_BYTES).decode("utf-8-sig", "replace")
    rows = (line.split("\t") for line in text.splitlines() if line.strip())
    labels_by_name = {row[0]: row[1] for row in rows if len(row) > 1}
    names = [PurePosixPath(image.name).name for image in images]
    missing = [name for name in names if name not in labels_by_name]
    if missing:
        raise DataError(f"{file} has no line for {len(missing):,} images, first {missing[0]}")
    return [labels_by_name[name] for name in names]


def _folders(path: Path, names: Sequence[str]) -> list[str]:
    """Return the class of each image: its innermost folder whose name occurs in one place only.

    For example, ``n01443537/images/0.JPEG`` has class ``n01443537`` if every class has ``images``.
    """
    parents = [tuple(p for p in PurePosixPath(name).parent.parts if p != ".") for name in names]
    if not any(parents):
        stems = [PurePosixPath(name).stem for name in names]
        if all(map(_WORDNET_LABEL.match, stems)):
            return stems  # WordNet id and name in the file name
        raise DataError(f"{path} has images but no class folders; {LAYOUT}")
    outside = [name for name, folders in zip(names, parents, strict=True) if not folders]
    if outside:
        raise DataError(
            f"{path}: {len(outside):,} images are in no class folder, first {outside[0]}"
        )
    splits = sorted({folders[0] for folders in parents} & SPLITS)
    if len(splits) > 1:
        raise DataError(f"{path} has {', '.join(splits)}; use one of them: {path / splits[-1]}")
    if len(set(map(len, parents))) > 1:  # folders of different depth: the outermost that differs
        depth = next(
            level
            for level, folders in enumerate(zip(*parents, strict=False))
            if len(set(folders)) > 1
        )
        return [folders[depth] for folders in parents]
    for level in range(1, len(parents[0]) + 1):
        parents_by_name: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for folders in parents:
            parents_by_name[folders[-level]].add(folders[:-level])
        if len(parents_by_name) > 1 and all(
            len(outer_folders) == 1 for outer_folders in parents_by_name.values()
        ):
            return [folders[-level] for folders in parents]
    if len(set(parents)) == 1:
        return [parents[0][-1]] * len(parents)
    raise DataError(f"{path}: cannot tell which folder is the class; {LAYOUT}")


def _readable(label: str) -> str:
    return (label[10:] if _WORDNET_LABEL.match(label) else label).replace("_", " ")


def _interleave_classes(images: list[ClassImage], limit: int | None) -> list[ClassImage]:
    if limit is None or limit >= len(images):
        return images
    counts: dict[str, int] = defaultdict(int)
    order = []
    for position, image in enumerate(images):
        order.append((counts[image.label], position))
        counts[image.label] += 1
    return [images[position] for _, position in sorted(order)]
