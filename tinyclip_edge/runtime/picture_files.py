"""The pictures below folders, each file once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from tinyclip_edge.errors import DataError, TinyClipError
from tinyclip_edge.paths import exists, expanded, files_below, is_file, is_folder
from tinyclip_edge.runtime.image_formats import READABLE, count_kinds, file_kind, is_image_name


def folder_pictures(
    folders: Iterable[str | Path],
    *,
    on_unreadable: Callable[[Path, TinyClipError], None] | None = None,
    is_wanted: Callable[[str], bool] = is_image_name,
) -> list[str]:
    """Return the paths of all pictures below folders, in order of their names.

    ``is_wanted``: whether a file of this name is a picture. Hidden files and folders are left out;
    a file that several links or folders lead to appears once, under its own name if that is below
    a folder. Raise DataError for a missing folder, an unreadable one (unless ``on_unreadable`` is
    passed), or no pictures at all.
    """
    roots = [_checked(folder) for folder in folders]
    kinds: Counter[str] = Counter()
    by_file: dict[str, str] = {}
    real_folder = cache(os.path.realpath)
    for root in roots:
        for path in _pictures(root, kinds, on_unreadable, is_wanted):
            parent, name = os.path.split(path)
            is_link = os.path.islink(path)  # noqa: PTH114
            real = os.path.realpath(path) if is_link else os.path.join(real_folder(parent), name)  # noqa: PTH118
            if by_file.get(real) != real:
                by_file[real] = path
    if not by_file:
        raise no_pictures(roots, kinds)
    return sorted(by_file.values())


def no_pictures(folders: Iterable[Path], kinds: Counter[str]) -> DataError:
    """Return the error for folders without a picture, with the kinds of the files there."""
    others = f", but {count_kinds(kinds)}" if kinds else ""
    names = ", ".join(str(folder) for folder in folders)
    return DataError(f"no picture in {names} ({READABLE}){others}")


def _checked(folder: str | Path) -> Path:
    path = Path(expanded(folder))
    if not is_folder(path):
        kind = "it is not a folder" if os.path.lexists(path) else "it does not exist"
        raise DataError(f"no folder {path}: {kind}")
    return path


def _pictures(
    root: Path,
    kinds: Counter[str],
    on_unreadable: Callable[[Path, TinyClipError], None] | None,
    is_wanted: Callable[[str], bool],
) -> Iterator[str]:
    for name in files_below(root, DataError, on_unreadable=on_unreadable):
        base = name.rpartition("/")[2]
        # A link to a pipe or device is skipped; one that leads nowhere is a missing picture.
        is_picture = is_wanted(base) and not base.startswith(".")
        if is_picture and (is_file(root / name) or not exists(root / name)):
            yield str(root / name)
        else:
            kinds[file_kind(base)] += 1
