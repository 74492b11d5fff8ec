"""Embed a collection of pictures into an index, decoding ahead of the model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, starmap
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from tinyclip_edge.errors import (
    DataError,
    TinyClipError,
    TinyClipWarning,
    did_you_mean,
    shown,
)
from tinyclip_edge.paths import exists, is_folder
from tinyclip_edge.runtime.decoding import prepared
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.index_file import SkippedImage
from tinyclip_edge.runtime.index_rows import repeated
from tinyclip_edge.runtime.inputs import image_list
from tinyclip_edge.runtime.picture_files import folder_pictures
from tinyclip_edge.runtime.preprocess import Preprocess
from tinyclip_edge.runtime.progress import reported
from tinyclip_edge.runtime.protocol import Features, ImageInput, Images, OnError, Progress

ON_ERROR = ("raise", "skip")


class PictureEncoder(NamedTuple):
    """What turns pictures into embeddings."""

    preprocess: Preprocess
    tower: Callable[[Features], Features]  # [B, 3, H, W] to [B, D]
    batch: int
    width: int  # D
    threads: int  # that decode beside the tower; 0: none


def build_index(
    encoder: PictureEncoder,
    model_hash: str,
    images: Images,
    keys: Iterable[str] | None,
    *,
    decode: str,
    metadata: Iterable[Mapping[str, Any]] | None,
    on_error: OnError,
    progress: Progress,
) -> ImageIndex:
    """Return the index of a collection; see ``EdgeCLIP.index``."""
    if on_error not in ON_ERROR:
        raise DataError(f"on_error {on_error!r}{did_you_mean(str(on_error), ON_ERROR)}")
    errors: list[SkippedImage] = []

    def skip(folder: Path, error: TinyClipError) -> None:
        errors.append(SkippedImage(str(folder), str(error)))

    items, total = _items(_collection(images, skip if on_error == "skip" else None), keys, metadata)
    features: list[Features] = []
    rows: list[Features] = []
    indexed: list[_Item] = []

    def embed() -> None:
        if rows:
            features.append(encoder.tower(np.stack(rows)))
            rows.clear()

    with reported(progress, "pictures") as report:
        results = prepared(
            items,
            lambda item: encoder.preprocess(item.image, item.label),
            threads=encoder.threads,
            ahead=2 * encoder.batch,
        )
        for done, (item, result) in enumerate(results, 1):
            if isinstance(result, DataError):
                if on_error == "raise":
                    raise DataError(f"{result}; on_error='skip' leaves such pictures out")
                errors.append(SkippedImage(item.key, str(result)))
            else:
                rows.append(result)
                indexed.append(item)
            if len(rows) == encoder.batch:
                embed()
            report(done, total)
        embed()
    index_keys = tuple(item.key for item in indexed)
    if twice := repeated(index_keys):
        warnings.warn(
            f"index: {twice[1]:,} keys appear more than once, such as {shown(twice[0])}; results "
            "cannot tell such pictures apart",
            TinyClipWarning,
            stacklevel=3,
        )
    return ImageIndex(
        index_keys,
        np.concatenate([np.empty((0, encoder.width), np.float32), *features]),
        model_hash,
        metadata=None if metadata is None else tuple(item.metadata for item in indexed),
        errors=tuple(errors),
        decode=decode,
    )


class _Item(NamedTuple):
    key: str
    image: ImageInput
    label: str  # in messages, if the image has no path
    metadata: Mapping[str, Any]


def _items(
    collection: Iterator[ImageInput] | Sequence[ImageInput],
    keys: Iterable[str] | None,
    metadata: Iterable[Mapping[str, Any]] | None,
) -> tuple[Iterator[_Item], int | None]:
    """Return the pictures with their keys and metadata, and their number if known."""
    total = None if isinstance(collection, Iterator) else len(collection)
    for name, column in (("keys", keys), ("metadata", metadata)):
        if isinstance(column, (str, Mapping)):
            raise DataError(f"index: {name} must be a list with one entry per picture")
        count = getattr(column, "__len__", lambda: total)()
        if None not in (count, total) and count != total:
            raise DataError(f"index: {count} {name} do not match {total} images")
    if metadata is not None:  # a list is checked before hours of work
        checked = starmap(_checked_metadata, enumerate(metadata))
        metadata = checked if isinstance(metadata, Iterator) else list(checked)
    return _numbered(collection, keys, metadata), total


def _checked_metadata(number: int, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in entry.items() if isinstance(entry, Mapping) else ():
        try:
            json.dumps({name: value}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"index: metadata {shown(name)} of image {number} must be a text, a finite number, "
                f"a list or a table: {error}"
            ) from error
    return entry


def _numbered(
    images: Iterable[ImageInput],
    keys: Iterable[str] | None,
    metadata: Iterable[Mapping[str, Any]] | None,
) -> Iterator[_Item]:
    missing = object()
    key_of = None if keys is None else chain(keys, [missing])
    entries = None if metadata is None else chain(metadata, [missing])
    number = -1
    for number, image in enumerate(images):
        path = str(image) if isinstance(image, (str, Path)) else None
        key = next(key_of, missing) if key_of is not None else path or str(number)
        entry = next(entries, missing) if entries is not None else {}
        if key is missing or entry is missing:
            raise DataError(f"index: there are {number} keys or metadata, but more images")
        if not isinstance(key, str) or not isinstance(entry, Mapping):
            raise DataError(
                f"index: key {shown(key)} must be str, and its metadata a mapping of values"
            )
        yield _Item(str(key), image, f"image {number}", entry)
    for column in (key_of, entries):
        if column is not None and next(column, missing) is not missing:
            raise DataError(f"index: there are only {number + 1} images, but more keys or metadata")


def _collection(
    images: Images, on_unreadable: Callable[[Path, TinyClipError], None] | None
) -> Iterator[ImageInput] | Sequence[ImageInput]:
    """Return an iterator, or a sequence; folders are replaced by their pictures."""

    def expanded(image: ImageInput) -> Sequence[ImageInput]:
        if not _is_folder(image):
            return [image]
        return folder_pictures([cast("str | Path", image)], on_unreadable=on_unreadable)

    if isinstance(images, (str, Path)):
        if not exists(Path(images)) or is_folder(Path(images)):
            return folder_pictures([images], on_unreadable=on_unreadable)
        raise DataError(
            f"index takes a folder or a list of images, not a single one; write [{str(images)!r}]"
        )
    if isinstance(images, Iterator):
        return chain.from_iterable(map(expanded, images))
    listed = image_list(images, "index")
    if len(listed) and all(map(_is_folder, listed)):
        return folder_pictures(cast("Sequence[str]", listed), on_unreadable=on_unreadable)
    if any(map(_is_folder, listed)):
        return list(chain.from_iterable(map(expanded, listed)))
    return listed


def _is_folder(image: ImageInput) -> bool:
    return isinstance(image, (str, Path)) and is_folder(Path(image))
