"""Read the starter kit's shards into memory, without torch."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class KitSample:
    """One sample: encoded picture, caption lines (name first) and what its JSON says."""

    key: str
    webp: bytes
    captions: tuple[str, ...]
    about: dict[str, Any]

    @property
    def concept(self) -> str:
        """Concept id: the name of what is drawn."""
        return str(self.about["concept"])

    def pixels(self) -> NDArray[np.uint8]:
        """Decoded picture [64, 64, 3], RGB."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.webp)).convert("RGB"))


def read_split(folder: Path, split: str) -> Iterator[KitSample]:
    """Samples of all shards of a split, in stored order. Raises FileNotFoundError where none is."""
    shards = sorted(folder.glob(f"{split}-*.tar.gz"))
    if not shards:
        raise FileNotFoundError(f"no shard {split}-*.tar.gz in {folder}")
    for shard in shards:
        parts: dict[str, bytes] = {}
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                handle = tar.extractfile(member)
                parts[suffix] = handle.read() if handle else b""
                if suffix == "json":  # the last member of every sample
                    lines = tuple(parts["txt"].decode().strip().split("\n"))
                    yield KitSample(key, parts["webp"], lines, json.loads(parts["json"]))
                    parts = {}
