"""One picture with its captions, and the count of those that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_edge.data.cuts import CutShards
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.images import open_image

BAD_SHARE = 0.01  # of all samples; more of them stop the run
STREAM_MINIMUM = 1000  # samples seen before a stream is judged by its share
NAMED_KEYS = 20
Picture = bytes | Image.Image | Path  # a path is read by whoever decodes it


Ints = npt.NDArray[np.int64]
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class KeptFeatures:
    """What a feature cache holds of one pair: V views (1: the centre), D wide."""

    image: Halves  # [V, D]
    seeds: Ints  # [V] of the views' crops; [0] for the centre
    texts: tuple[Halves | None, ...]  # [D] of each caption; None: not in the cache


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture, encoded, decoded or still a file, and every caption it may be drawn with."""

    key: str
    image: Picture
    captions: tuple[str, ...]
    concept: str  # pairs of one concept are no negatives of each other
    meta: dict[str, Any] = field(default_factory=dict)
    kept: KeptFeatures | None = None

    def kept_view(self, view: int) -> Halves | None:
        """Return the kept features ``[D]`` of a view, 0 for the centre."""
        return None if self.kept is None else self.kept.image[view]

    def kept_text(self, caption: str) -> Halves | None:
        """Return the kept features ``[D]`` of one of the captions."""
        return None if self.kept is None else self.kept.texts[self.captions.index(caption)]


def caption_lines(text: str | Iterable[object]) -> tuple[str, ...]:
    """Return the captions of a text, one a line, or of a list, without blanks and empty ones.

    Raises UnicodeError for what has no UTF-8: halves of characters, as JSON can hold them.
    """
    lines = text.splitlines() if isinstance(text, str) else [str(line) for line in text if line]
    found = tuple(line.strip() for line in lines if line.strip())
    "".join(found).encode()
    return found


def concept_of(given: object, captions: tuple[str, ...]) -> str:
    """Return the concept that was given, else the first caption in lower case."""
    return str(given or captions[0].casefold())


class UndecodableImageError(Exception):
    """One image cannot be decoded; the loader counts it and goes on."""


def decode_image(image: Picture) -> Image.Image:
    """Return the picture as RGB, upright, on white, as export, evaluation and runtime see it.

    Raises UndecodableImageError.
    """
    try:
        return open_image(image)
    except DataError as error:
        raise UndecodableImageError(str(error)) from error


@dataclass(slots=True)
class BadSamples:
    """Counts images that do not decode and samples that cut shards lost; too many are a DataError.

    Too many is more than one per cent.
    """

    source: str
    cuts: CutShards = field(default_factory=CutShards)
    keys: list[str] = field(default_factory=list)

    def add(self, key: str) -> None:
        """Count one sample that was skipped."""
        self.keys.append(key)

    def check(self, seen: int, *, final: bool) -> None:
        """Raise DataError when too many of ``seen`` samples were bad; early in a stream, wait."""
        lost = self.cuts.lost
        # A stream reads a shard to its end before it gives the last of it.
        seen = max(seen, self.cuts.read) + lost
        if len(self.keys) + lost <= BAD_SHARE * seen or (not final and seen < STREAM_MINIMUM):
            return
        what = "images cannot be decoded" if not lost else "samples are undecodable or cut off"
        names = "; ".join([self.named()] * bool(self.keys) + self.cuts.lines())
        raise DataError(
            f"{self.source}: {len(self.keys) + lost} of {seen} {what} "
            f"(at most {BAD_SHARE:.0%} may be skipped): {names}"
        )

    def report(self, seen: int) -> list[str]:
        """Return a line a cut shard, and one about images that do not decode if there are any."""
        lines = self.cuts.lines()
        if self.keys:
            lines.append(
                f"{self.source}: skipped {len(self.keys)} of {seen} images "
                f"that cannot be decoded: {self.named()}"
            )
        return lines

    def named(self) -> str:
        """Return the first keys and how many follow; a stream meets one again in every epoch."""
        names = list(dict.fromkeys(self.keys))
        more = len(names) - NAMED_KEYS
        return ", ".join(names[:NAMED_KEYS]) + (f" and {more} more" if more > 0 else "")
