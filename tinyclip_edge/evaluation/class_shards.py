"""Webdataset shards for evaluation: ``KEY.cls`` is the class number, ``classnames.txt`` names it.

The layout is clip-benchmark's: ``classnames.txt`` in a folder, shards beside it or in ``test/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation.class_names import CLASSNAMES, read_class_names
from tinyclip_edge.paths import is_file, is_folder
from tinyclip_edge.runtime.image_formats import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from tinyclip_edge.data import Losses
    from tinyclip_edge.data.sample_groups import Sample

SPLIT = "test"
SHARDS = ("*.tar", "*.tar.gz")


def is_class_shards(path: Path) -> bool:
    """Whether the path is a shard or a folder of shards with a ``classnames.txt``."""
    return _names_file(path) is not None and bool(_shards(path))


def class_shard_names(path: Path) -> list[str]:
    """Return the names of the classes by number. Raises DataError for a file that is empty."""
    file = _names_file(path)
    assert file is not None
    return read_class_names(file)


def class_shard_images(
    path: Path, names: Sequence[str], losses: Losses
) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Yield key, encoded image and class name of every sample; faulty ones are added to ``losses``.

    Raises DataError for a class number without a name, and for shards that cannot be read.
    """
    from tinyclip_edge.data.shards import open_samples

    for shard in _shards(path):
        usable = 0
        for sample in open_samples(shard, losses):
            image, number = sample.member(IMAGE_SUFFIXES), _number(sample)
            if image is None or number is None:
                member = "image" if image is None else "class number (KEY.cls)"
                losses.add_fault(f"shard {shard}: '{sample.key}' has no {member}")
                continue
            if not 0 <= number < len(names):
                raise DataError(
                    f"shard {shard}: '{sample.key}' has class {number}, but {_names_file(path)} "
                    f"names {len(names):,} classes, counted from 0"
                )
            usable += 1
            losses.count(str(shard), usable)
            yield sample.key, image, (names[number],)


def _names_file(path: Path) -> Path | None:
    folders = (path,) if is_folder(path) else (path.parent, path.parent.parent)
    return next((folder / CLASSNAMES for folder in folders if is_file(folder / CLASSNAMES)), None)


def _shards(path: Path) -> list[Path]:
    if is_file(path):
        return [path] if path.name.endswith((".tar", ".tar.gz")) and _has_classes(path) else []
    candidates = (
        sorted(folder.glob(pattern)) for folder in (path, path / SPLIT) for pattern in SHARDS
    )
    return next((shards for shards in candidates if shards), [])


def _has_classes(path: Path) -> bool:
    from tinyclip_edge.data import Losses
    from tinyclip_edge.data.shards import open_samples

    try:
        first = next(open_samples(path, Losses()), None)
    except DataError:
        return False  # its reader reports what is wrong
    return first is not None and first.member(("cls",)) is not None


def _number(sample: Sample) -> int | None:
    text = sample.member(("cls",))
    try:
        return None if text is None or len(text) > 9 else int(text)
    except ValueError:
        return None
