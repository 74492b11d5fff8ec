"""One picture with its captions, and the count of samples that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.images import open_image

BAD_SHARE = 0.01  # of all samples; a larger share stops the run
STREAM_MINIMUM = 1000  # samples read before the share of a stream is checked
NAMED_KEYS = 20
Picture = bytes | Image.Image | Path  # a path is read when the picture is decoded

_KINDS: dict[type, str] = {dict: "an object", list: "a list", bool: "true or false"}

Ints = npt.NDArray[np.int64]
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class CachedFeatures:
    """Cached features of one pair: V views (1: the centre), width D."""

    image: Halves  # [V, D]
    seeds: Ints  # [V] of the crops of the views; [0] for the centre
    texts: tuple[Halves | None, ...]  # [D] of each caption; None if it is not cached


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture (encoded, decoded or a file) and all of its captions."""

    key: str
    image: Picture
    captions: tuple[str, ...]
    concept: str  # pairs of one concept are not negatives of each other
    meta: dict[str, Any] = field(default_factory=dict)
    cached: CachedFeatures | None = None

    def cached_view(self, view: int) -> Halves | None:
        """Return the cached features ``[D]`` of a view, 0 for the centre."""
        return None if self.cached is None else self.cached.image[view]

    def cached_text(self, caption: str) -> Halves | None:
        """Return the cached features ``[D]`` of one of the captions."""
        return None if self.cached is None else self.cached.texts[self.captions.index(caption)]


def caption_lines(text: str) -> tuple[str, ...]:
    """Return the captions of a text file, one per line, stripped; skip empty lines."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def captions_of(value: object) -> tuple[str, ...]:
    """Return the captions of a cell or JSON value: a string is one caption, a list is several.

    Line breaks inside a caption become spaces. Raises TypeError for values that are not text, and
    UnicodeError for lone surrogates, which JSON allows but UTF-8 does not.
    """
    texts = value if isinstance(value, list) else [value]
    captions = []
    for text in texts:
        if not isinstance(text, (str, type(None))):
            raise TypeError(f"{_KINDS.get(type(text), 'a number')} is not text")
        captions.append(" ".join(caption_lines(text or "")))
    "".join(captions).encode()
    return tuple(text for text in captions if text)


def concept_of(name: object, captions: tuple[str, ...]) -> str:
    """Return the concept: ``name`` if it is set, else the first caption, if any, in lower case."""
    return str(name or (captions[0].casefold() if captions else ""))


class UndecodableImageError(Exception):
    """An image that cannot be decoded; the loader counts it and continues."""


def decode_image(image: Picture) -> Image.Image:
    """Return the picture as upright RGB on white, as in export, evaluation and runtime.

    Raises UndecodableImageError.
    """
    try:
        return open_image(image)
    except DataError as error:
        raise UndecodableImageError(str(error)) from error


@dataclass(slots=True)
class BadSamples:
    """Counts undecodable images and the other losses of a source; too many raise DataError.

    Too many means more than one per cent in all: undecodable, without a caption, not UTF-8, or
    truncated.
    """

    source: str
    losses: Losses = field(default_factory=Losses)
    keys: list[str] = field(default_factory=list)

    def add(self, key: str) -> None:
        """Count a skipped sample."""
        self.keys.append(key)

    def check(self, samples: int, *, final: bool) -> None:
        """Raise DataError if too many of ``samples`` are bad.

        Unless the check is ``final``, it waits for 1,000 samples.
        """
        losses = self.losses
        missing = losses.unusable
        # A stream reads ahead of the batches it yields.
        samples = max(samples, losses.read) + missing
        if len(self.keys) + missing <= BAD_SHARE * samples or (
            not final and samples < STREAM_MINIMUM
        ):
            return
        what = "samples cannot be used"
        if not losses.faults:
            what = (
                "samples cannot be decoded or are truncated"
                if missing
                else "images cannot be decoded"
            )
        details = [self.named(), losses.named_faults(), *losses.cut_lines()]
        names = "; ".join(line for line in details if line)
        raise DataError(
            f"{self.source}: {len(self.keys) + missing:,} of {samples:,} {what} "
            f"(at most {BAD_SHARE:.0%} may be skipped): {names}"
        )

    def report(self, samples: int) -> list[str]:
        """Return lines about truncated shards, faulty samples, and undecodable images."""
        lines = self.losses.lines()
        if self.keys:
            lines.append(
                f"{self.source}: skipped {len(self.keys):,} of {samples:,} images "
                f"that cannot be decoded: {self.named()}"
            )
        return lines

    def named(self) -> str:
        """Return the first keys and the number of others; repeated keys count once."""
        names = list(dict.fromkeys(self.keys))
        more = len(names) - NAMED_KEYS
        return ", ".join(names[:NAMED_KEYS]) + (f" and {more:,} more" if more > 0 else "")
