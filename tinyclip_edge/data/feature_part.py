"""The teacher's features of one part of a source, and their file.

N pictures in V views (1: the centre), M captions, D wide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinyclip_edge.aside import NEW, work_folder
from tinyclip_edge.data.marks import caption_mark, sample_mark
from tinyclip_edge.data.pairs import CachedFeatures, Halves, Ints, Pair
from tinyclip_edge.json_text import parse_json

Bytes = npt.NDArray[np.uint8]
ABOUT = "about"
NAMES = ("image", "seeds", "samples", "text", "captions")
KINDS = (np.float16, np.int64, np.uint8, np.float16, np.uint8)


class BrokenPartError(Exception):
    """A file is damaged, or belongs to another part or recipe; the message says which."""


@dataclass(frozen=True, slots=True)
class PartFeatures:
    """Feature rows of one part; an undecodable picture has none."""

    image: Halves  # [N, V, D]
    seeds: Ints  # [N, V] of the crops; [N, 0] for the centre
    samples: Bytes  # [N, 16] marks
    text: Halves  # [M, D], of distinct captions
    captions: Bytes  # [M, 16] marks
    bad: int = 0  # undecodable pictures
    _pictures: dict[bytes, int] = field(init=False, repr=False)
    _texts: dict[bytes, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pictures", _rows(self.samples))
        object.__setattr__(self, "_texts", _rows(self.captions))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(int(getattr(self, name).nbytes) for name in NAMES)

    def of(self, pair: Pair) -> CachedFeatures | None:
        """Return a copy of the features of a pair; None when its picture is missing."""
        row = self._pictures.get(sample_mark(pair))
        if row is None:
            return None
        numbers = [self._texts.get(caption_mark(caption)) for caption in pair.captions]
        texts = tuple(None if at is None else self.text[at].copy() for at in numbers)
        return CachedFeatures(self.image[row].copy(), self.seeds[row].copy(), texts)


def write_part(path: Path, about: Mapping[str, str], part: PartFeatures) -> None:
    """Write to a temporary file and rename it. Raises OSError or SafetensorError."""
    tensors = {name: np.ascontiguousarray(getattr(part, name)) for name in NAMES}
    # One value, because the order of several is random: equal features must give equal bytes.
    metadata = {ABOUT: json.dumps({**about, "bad": part.bad, "sha256": _digest(tensors)})}
    with work_folder(path) as work:
        save_file(tensors, work / NEW, metadata=metadata)
        (work / NEW).replace(path)


def check_part(path: Path, about: Mapping[str, str]) -> None:
    """Raise BrokenPartError unless the file is complete and belongs to this part and recipe."""
    try:
        with safe_open(path, framework="np") as file:
            _compare(_content_of(file.metadata()), about)
    except (OSError, SafetensorError) as error:
        raise BrokenPartError(f"is truncated or damaged ({error})") from error


def read_part(path: Path, about: Mapping[str, str]) -> PartFeatures:
    """Read a file; raise BrokenPartError as ``check_part`` does, or if a byte has changed."""
    try:
        with safe_open(path, framework="np") as file:
            content = _content_of(file.metadata())
            _compare(content, about)
            tensors = {name: file.get_tensor(name) for name in NAMES}
    except (OSError, SafetensorError) as error:
        raise BrokenPartError(f"is truncated or damaged ({error})") from error
    kinds = tuple(tensors[name].dtype for name in NAMES)
    rows = [len(tensors[name]) for name in NAMES]
    fits = kinds == KINDS and rows[0] == rows[1] == rows[2] and rows[3] == rows[4]
    bad = content.get("bad", 0)
    if not fits or not isinstance(bad, int) or bad < 0 or content.get("sha256") != _digest(tensors):
        raise BrokenPartError("has changed since it was written")
    return PartFeatures(**tensors, bad=bad)


def _content_of(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        content = parse_json((metadata or {}).get(ABOUT, "{}"))
    except ValueError:
        content = {}
    return content if isinstance(content, dict) else {}


def _compare(content: Mapping[str, Any], about: Mapping[str, str]) -> None:
    for name, expected in about.items():
        if content.get(name) != expected:
            raise BrokenPartError(f"is for another {name}")


def _digest(tensors: Mapping[str, npt.NDArray[np.generic]]) -> str:
    digest = hashlib.sha256()
    for name in NAMES:
        digest.update(f"{name} {tensors[name].shape}".encode())
        digest.update(tensors[name].data)
    return digest.hexdigest()


def _rows(marks: Bytes) -> dict[bytes, int]:
    return {mark.tobytes(): row for row, mark in enumerate(marks)}
