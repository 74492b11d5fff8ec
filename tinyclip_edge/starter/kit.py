"""Read the starter kit's shards into memory, without torch."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclip_edge.errors import DataError

# The readers of tinyclip_edge.data would import torch through webdataset.
_BROKEN = (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, KeyError)
_CURE = "install tinyclip-starter again"


@dataclass(frozen=True, slots=True)
class KitSample:
    """One sample: encoded picture, caption lines (name first) and JSON metadata."""

    key: str
    webp: bytes
    captions: tuple[str, ...]
    about: dict[str, Any]

    @property
    def concept(self) -> str:
        """Concept id: the name of the depicted thing."""
        return str(self.about["concept"])

    def pixels(self) -> NDArray[np.uint8]:
        """Decoded picture [64, 64, 3], RGB."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.webp)).convert("RGB"))


def read_split(folder: Path, split: str) -> Iterator[KitSample]:
    """Yield the samples of all shards of a split, in stored order.

    Raises DataError if there is no shard, or if one is truncated or corrupt.
    """
    shards = sorted(folder.glob(f"{split}-*.tar.gz"))
    if not shards:
        raise DataError(
            f"the starter kit is incomplete: no shard {split}-*.tar.gz in {folder}; {_CURE}"
        )
    for shard in shards:
        try:
            # Decompress all of it, because tarfile accepts a shard truncated between two samples.
            unpacked = gzip.decompress(shard.read_bytes())
            yield from _samples(unpacked)
        except _BROKEN as error:
            raise DataError(
                f"shard {shard} of the starter kit is truncated or damaged ({_reason(error)}); "
                f"{_CURE}"
            ) from error


def _samples(unpacked: bytes) -> Iterator[KitSample]:
    parts: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
        for member in tar:
            key, _, suffix = member.name.rpartition(".")
            handle = tar.extractfile(member)
            parts[suffix] = handle.read() if handle else b""
            if suffix == "json":  # the last member of every sample
                lines = tuple(parts["txt"].decode().strip().split("\n"))
                yield KitSample(key, parts["webp"], lines, json.loads(parts["json"]))
                parts = {}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
