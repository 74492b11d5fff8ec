"""Readable names for class folders named by WordNet id or number, from files or from ImageNet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import DataError, first_names
from tinyclip_edge.limits import NAMES_BYTES
from tinyclip_edge.paths import is_file, read_bounded

TABLES = ("classes.tsv", "words.txt")  # folder name, tab, names separated by commas
CLASSNAMES = "classnames.txt"  # one name per line, in the order of the sorted folders
NAMED = 5  # names listed in a note
WORDNET_ID = re.compile(r"n\d{8}")
LEVELS = 3  # folders searched for such a file: the images' own and its parents


def class_names(folder: Path, labels: Sequence[str]) -> dict[str, str]:
    """Return the names of the labels that have a known name.

    A table in ``folder`` or up to two folders above takes precedence over ``classnames.txt``, which
    takes precedence over ImageNet's names of WordNet ids. Raises DataError for a file that cannot
    be read or does not match the labels.
    """
    distinct = set(labels)
    for place in (folder, *folder.resolve().parents)[:LEVELS]:
        for name in TABLES:
            if is_file(place / name) and (names := _table(place / name, distinct)):
                return names
    if is_file(folder / CLASSNAMES):
        return _in_order(folder / CLASSNAMES, sorted(distinct))
    return _imagenet_names(distinct)


def read_class_names(file: Path) -> list[str]:
    """Return the names of a file with one per line; raise DataError when it is empty."""
    names = [line.strip() for line in _lines(file)]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{file} is empty; give one class name per line")
    return names


def shared_names(names: Iterable[str]) -> list[str]:
    """Return a note on classes that have the same name, if there are any."""
    shared = [name for name, classes in Counter(names).items() if classes > 1]
    return [
        f"{len(shared):,} names belong to several classes, which are merged: "
        f"{first_names(shared, NAMED)}"
    ][: len(shared)]


def _lines(file: Path) -> list[str]:
    try:
        return read_bounded(file, DataError, limit=NAMES_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8") from None


def _in_order(file: Path, labels: Sequence[str]) -> dict[str, str]:
    names = read_class_names(file)
    if len(names) != len(labels):
        raise DataError(
            f"{file} has {len(names):,} names for {len(labels):,} class folders; give one per "
            f"line, in the order of the sorted folders, or a {TABLES[0]} with folder, tab, name"
        )
    return dict(zip(labels, names, strict=True))


def _table(file: Path, labels: Iterable[str]) -> dict[str, str]:
    names = {}
    for number, line in enumerate(_lines(file), start=1):
        label, tab, text = line.partition("\t")
        if not line.strip():
            continue
        if not tab or not text.strip():
            raise DataError(f"{file}:{number}: expected a folder name, a tab and a class name")
        if label in labels:
            names[label] = text.split(",")[0].strip()
    return names


def _imagenet_names(labels: Iterable[str]) -> dict[str, str]:
    ids = [label for label in labels if WORDNET_ID.fullmatch(label)]
    if not ids:
        return {}
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return {}
    descriptions: Any = ImageNetInfo("imagenet-22k").label_descriptions(as_dict=True)
    return {label: descriptions[label].split(",")[0] for label in ids if label in descriptions}
