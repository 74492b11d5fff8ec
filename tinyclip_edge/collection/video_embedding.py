"""Embeddings of a video's frames, for an index of folders."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyclip_edge.collection.files import PictureFile
from tinyclip_edge.collection.journal import IndexedFile
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.decoding import prepared
from tinyclip_edge.runtime.indexing import PictureEncoder
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.vectors import int8_codes
from tinyclip_edge.runtime.video import video_frames
from tinyclip_edge.runtime.video_keys import frame_key

_WAITING = 8  # decoded frames, which may be large


def embed_video(
    encoder: PictureEncoder, file: PictureFile, digest: bytes, every: float
) -> dict[str, IndexedFile]:
    """Return the embeddings of a video's frames, one every ``every`` seconds, by key.

    Raise DataError for a video that cannot be decoded.
    """
    entries: dict[str, IndexedFile] = {}
    for keys, pixels in _batches(encoder, file.path, every):
        for key, code, scale in zip(keys, *int8_codes(encoder.tower(pixels)), strict=True):
            entries[key] = IndexedFile(*file.stamp, digest, code, float(scale))
    return entries


def _batches(
    encoder: PictureEncoder, path: str, every: float
) -> Iterator[tuple[list[str], Features]]:
    keys: list[str] = []
    pixels: list[Features] = []
    jobs = prepared(
        video_frames(path, every),
        lambda frame: encoder.preprocess(frame[1], path),
        threads=encoder.threads,
        ahead=_WAITING,
    )
    for (seconds, _), result in jobs:
        if isinstance(result, DataError):
            raise result
        keys.append(frame_key(path, seconds))
        pixels.append(result)
        if len(pixels) == encoder.batch:
            yield keys, np.stack(pixels)
            keys, pixels = [], []
    if pixels:
        yield keys, np.stack(pixels)
