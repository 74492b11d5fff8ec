"""All pairs of a source decoded in memory, and batches that depend on seed and step alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinyclip_edge.data.order import distinct_epoch, distinct_slots
from tinyclip_edge.data.pairs import BadSamples, Pair
from tinyclip_edge.data.pixels import PixelCodec
from tinyclip_edge.data.source import PairSource
from tinyclip_edge.errors import DataError

Ints = npt.NDArray[np.int64]
CHUNK = 512  # encoded pictures held at once while decoding
WHOLE = slice(None)  # of a batch: the share of a single process


@dataclass(frozen=True, slots=True)
class Batch:
    """B pairs, or a process' share of them.

    The numbers name picture and caption in a PairMemory, of all B pairs; None when streamed.
    """

    keys: tuple[str, ...]
    pixels: Tensor  # uint8 [B, 3, H, W]
    captions: tuple[str, ...]
    image_ids: Ints | None = None  # [B]
    caption_ids: Ints | None = None  # [B]


class Ragged:
    """Lists of different length in two flat arrays."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        self._flat = np.array([item for row in rows for item in row], dtype=np.int64)

    def draw(self, rows: Ints, random: npt.NDArray[np.float64]) -> Ints:
        """Take one item of each row; ``random`` in [0, 1) says which."""
        drawn: Ints = self._flat[
            self._starts[rows] + (random * self.lengths[rows]).astype(np.int64)
        ]
        return drawn

    def first(self, row: int) -> int:
        """Return the first item of a row."""
        return int(self._flat[self._starts[row]])


class PairMemory:
    """Pairs with decoded pictures; every draw is a function of (seed, step)."""

    def __init__(self, name: str, pairs: list[Pair], images: list[Tensor], bad: BadSamples) -> None:
        self.name = name
        self.keys = tuple(pair.key for pair in pairs)
        self.images = images
        self.bad = bad
        captions: dict[str, int] = {}
        concepts: dict[str, list[int]] = {}
        rows = []
        for number, pair in enumerate(pairs):
            rows.append([captions.setdefault(text, len(captions)) for text in pair.captions])
            concepts.setdefault(pair.concept, []).append(number)
        self.captions = tuple(captions)
        self.concepts = tuple(concepts)
        self._of_picture = Ragged(rows)
        self._of_concept = Ragged(list(concepts.values()))
        self.concept_of = np.empty(len(pairs), dtype=np.int64)
        for concept, members in enumerate(concepts.values()):
            self.concept_of[members] = concept
        self._counted: dict[tuple[int, bool], int] = {}
        self._order: tuple[tuple[int, int, int, bool], Ints] | None = None

    @classmethod
    def load(
        cls,
        source: PairSource,
        codec: PixelCodec,
        *,
        workers: int = 2,
        limit: int | None = None,
    ) -> PairMemory:
        """Decode a source with several threads; ``limit`` keeps the first pairs.

        Raises DataError when more than one per cent of the images cannot be decoded.
        """
        pairs: list[Pair] = []
        images: list[Tensor] = []
        bad = BadSamples(source.name)
        stream = islice(source, limit)
        with ThreadPoolExecutor(workers) as pool:
            while chunk := list(islice(stream, CHUNK)):
                decoded = pool.map(lambda pair: codec.decode(pair.image), chunk)
                for pair, image in zip(chunk, decoded, strict=True):
                    if image is None:
                        bad.add(pair.key)
                        continue
                    pairs.append(Pair(pair.key, b"", pair.captions, pair.concept, pair.meta))
                    images.append(image)
        bad.check(len(pairs) + len(bad.keys), final=True)
        return cls(source.name, pairs, images, bad)

    def __len__(self) -> int:
        return len(self.keys)

    def skipped(self) -> str | None:
        """Return a line about images that do not decode, or None."""
        return self.bad.report(len(self) + len(self.bad.keys))

    @property
    def fingerprint(self) -> str:
        """Hash of keys and captions in order: what a cache or a resumed run relies on."""
        digest = hashlib.sha256()
        for text in (*self.keys, "", *self.captions):
            digest.update(text.encode() + b"\n")
        return digest.hexdigest()

    def label(self, concept: int) -> str:
        """Return the first caption of the first picture of a concept."""
        return self.captions[self._of_picture.first(self._of_concept.first(concept))]

    def check_batch(self, size: int, *, distinct: bool) -> None:
        """Raise DataError when a batch cannot be filled."""
        have = len(self.concepts) if distinct else len(self)
        if size > have:
            what = "distinct concepts" if distinct else "pairs"
            cure = " or set data.batch_distinct=false" if distinct and size <= len(self) else ""
            raise DataError(
                f"optim.batch_size {size} is above the {have} {what} of {self.name}; lower it{cure}"
            )

    def batch(
        self, step: int, size: int, *, seed: int, distinct: bool = True, rows: slice = WHOLE
    ) -> Batch:
        """Return ``rows`` of a step's pairs (from 0); an epoch visits each picture once."""
        epoch, slot = divmod(step, self._slots(size, distinct=distinct))
        ids = self._epoch(seed, epoch, size, distinct=distinct)[slot]
        caption_ids = self._of_picture.draw(
            ids, np.random.default_rng([seed, 1, step]).random(size)
        )
        return Batch(
            keys=tuple(self.keys[i] for i in ids[rows]),
            pixels=torch.stack([self.images[i] for i in ids[rows]]),
            captions=tuple(self.captions[i] for i in caption_ids[rows]),
            image_ids=ids,
            caption_ids=caption_ids,
        )

    def batches(
        self, start: int, size: int, *, seed: int, distinct: bool = True, rows: slice = WHOLE
    ) -> Iterator[Batch]:
        """Yield ``rows`` of the batches of steps ``start``, ``start + 1`` … without end."""
        self.check_batch(size, distinct=distinct)
        for step in count(start):
            yield self.batch(step, size, seed=seed, distinct=distinct, rows=rows)

    def _slots(self, size: int, *, distinct: bool) -> int:
        """Return the batches of an epoch; counted once, for every step asks."""
        key = (size, distinct)
        if key not in self._counted:
            self._counted[key] = (
                distinct_slots(self.concept_of, size) if distinct else len(self) // size
            )
        return self._counted[key]

    def _epoch(self, seed: int, epoch: int, size: int, *, distinct: bool) -> Ints:
        """Return the pictures of all batches of an epoch, ``[slots, size]``."""
        key = (seed, epoch, size, distinct)
        if self._order is None or self._order[0] != key:
            rng = np.random.default_rng([seed, 0, epoch, size])
            if distinct:
                order = distinct_epoch(self.concept_of, size, rng)
            else:
                whole = len(self) // size * size
                order = rng.permutation(len(self))[:whole].reshape(-1, size)
            self._order = (key, order)
        return self._order[1]
