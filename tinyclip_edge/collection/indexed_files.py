"""Files of an index: their state when embedded, and the changes not yet in the index."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import numpy as np

from tinyclip_edge.collection.files import KnownPicture, Stamp, inside
from tinyclip_edge.collection.journal import DIGEST_BYTES, IndexedFile, Journal
from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.index_file import FILE_STAMP, SkippedImage
from tinyclip_edge.runtime.video_keys import split_key


def open_index(path: Path, clip: EdgeCLIP) -> ImageIndex:
    """Return the index in a file, an empty one without a file; BundleError for another model's."""
    if not path.exists():
        width = clip.manifest.embedding_dim
        empty = np.empty((0, width), np.int8), np.empty(0, np.float32)
        return ImageIndex((), empty[0], clip.model_hash, empty[1], decode=clip.decode)
    index = ImageIndex.load(path)
    try:
        index.require(clip.model_hash)
    except BundleError as error:
        raise BundleError(f"{path}: {error}, into another file") from None
    return index


def known_pictures(index: ImageIndex, journal: Journal) -> dict[str, KnownPicture]:
    """Return the state of each file of an index when it was embedded, with later changes."""
    known: dict[str, KnownPicture] = {}
    if index.files is not None:
        digests = index.files["digest"].tobytes()
        sizes, times = (index.files[name].tolist() for name in ("size", "mtime_ns"))
        for row, key in enumerate(index.keys):
            digest = digests[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)]
            known[key] = KnownPicture(Stamp(sizes[row], times[row]), digest)
    for key in journal.removed:
        known.pop(key, None)
    for key, entry in journal.files.items():
        known[key] = KnownPicture(Stamp(entry.size, entry.mtime_ns), entry.digest)
    return known


def frames_of_videos(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys of frames, by the path of their video."""
    frames: dict[str, list[str]] = {}
    for key in keys:
        path, seconds = split_key(key)
        if seconds is not None:
            frames.setdefault(path, []).append(key)
    return frames


def gone_files(
    known: Iterable[str],
    present: Container[str],
    folders: Iterable[str],
    unread: Iterable[SkippedImage],
) -> set[str]:
    """Return the known keys whose file is gone from the folders, except below unread ones."""
    below = tuple(map(inside, folders))
    skipped = tuple(inside(entry.key) for entry in unread)
    return {
        key
        for key in known
        if split_key(key)[0] not in present
        and key.startswith(below)
        and not f"{split_key(key)[0]}{os.sep}".startswith(skipped)
    }


def as_index(files: Mapping[str, IndexedFile], like: ImageIndex) -> ImageIndex:
    """Return embedded files as an index of the same model as ``like``."""
    width = like.width or like.features.shape[1]
    stamps = np.zeros(len(files), FILE_STAMP)
    stamps["size"] = [entry.size for entry in files.values()]
    stamps["mtime_ns"] = [entry.mtime_ns for entry in files.values()]
    digests = b"".join(entry.digest for entry in files.values())
    stamps["digest"] = np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES)
    codes = [np.empty((0, width), np.int8), *(entry.code[None] for entry in files.values())]
    return ImageIndex(
        tuple(files),
        np.concatenate(codes),
        like.model_hash,
        np.array([entry.scale for entry in files.values()], np.float32),
        files=stamps,
        decode=like.decode,
    )
