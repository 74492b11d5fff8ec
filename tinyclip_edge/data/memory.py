"""All pairs of a source decoded in memory, and batches that depend only on seed and step."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinyclip_edge.data.features import CachedRows
from tinyclip_edge.data.marks import sample_mark
from tinyclip_edge.data.order import distinct_epoch, distinct_slots
from tinyclip_edge.data.pairs import BadSamples, Pair, Picture
from tinyclip_edge.data.pixels import PixelCodec
from tinyclip_edge.data.source import PairSource
from tinyclip_edge.data.texts import Texts
from tinyclip_edge.data.views import Crops, ViewedPictures
from tinyclip_edge.errors import DataError

Ints = npt.NDArray[np.int64]
CHUNK = 512  # encoded pictures in memory while decoding
AHEAD = 2  # batches of views that are being decoded while one is used
WHOLE = slice(None)  # rows of a batch for a single process


@dataclass(frozen=True, slots=True)
class Batch:
    """B pairs, or B pictures with B unpaired texts, or one process's share of them.

    The ids are row numbers in a PairMemory (with views: picture * V + view) for all B pairs; None
    when streamed. The features are cached ones, for the rows of this process only. A batch of
    pictures alone has no captions.
    """

    keys: tuple[str, ...]
    pixels: Tensor  # uint8 [B, 3, H, W]
    captions: tuple[str, ...]
    image_ids: Ints | None = None  # [B]
    caption_ids: Ints | None = None  # [B]
    image_features: CachedRows | None = None  # the teacher's, [b, D]
    text_features: CachedRows | None = None
    draws: Tensor | None = None  # float32 [b, 8] of augment.py, still to be applied to the pixels


class Ragged:
    """Lists of different lengths, stored in two flat arrays."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        self._flat = np.array([item for row in rows for item in row], dtype=np.int64)

    def draw(self, rows: Ints, random: npt.NDArray[np.float64]) -> Ints:
        """Return one item of each row, selected by ``random`` in [0, 1)."""
        items: Ints = self._flat[
            self._starts[rows] + (random * self.lengths[rows]).astype(np.int64)
        ]
        return items

    def first(self, row: int) -> int:
        """Return the first item of a row."""
        return int(self._flat[self._starts[row]])


@dataclass(frozen=True, slots=True)
class _Draw:
    """Pictures and captions of a step."""

    ids: Ints  # [B] pictures
    captions: Ints  # [B]
    view: int  # of all pictures; 0 if there is only the centre crop


class PairMemory:
    """Pairs with decoded pictures; a batch is a function of (seed, step).

    With ``texts`` the captions of a batch are drawn from these instead, independently of its
    pictures. With ``viewed`` the pictures of a batch are decoded on demand; an epoch shows one view
    of each.
    """

    def __init__(
        self,
        name: str,
        pairs: list[Pair],
        images: list[Tensor],
        bad: BadSamples,
        *,
        marks: Sequence[bytes] = (),
        viewed: ViewedPictures | None = None,
        texts: Texts | None = None,
    ) -> None:
        self.name = name
        self.texts = texts
        self.keys = tuple(pair.key for pair in pairs)
        self.images = images
        self.bad = bad
        self.marks = marks  # of the pictures, as in a feature cache
        self.viewed = viewed
        captions: dict[str, int] = {}
        concepts: dict[str, list[int]] = {}
        rows = []
        for number, pair in enumerate(pairs):
            own = pair.captions if texts is None else ()
            rows.append([captions.setdefault(text, len(captions)) for text in own])
            concepts.setdefault(pair.concept, []).append(number)
        self.captions = tuple(captions) if texts is None else texts.lines
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
        crops: Crops | None = None,
    ) -> PairMemory:
        """Decode a source with several threads; ``limit`` keeps the first pairs.

        With ``crops`` the pictures stay encoded after a test decoding. Raises DataError if more
        than one per cent of the images cannot be decoded.
        """
        pairs: list[Pair] = []
        images: list[Tensor] = []
        encoded: list[Picture] = []
        marks: list[bytes] = []
        bad = BadSamples(source.name, source.losses)
        stream = islice(source, limit)
        with ThreadPoolExecutor(workers) as pool:
            while chunk := list(islice(stream, CHUNK)):
                decoded = pool.map(lambda pair: codec.decode(pair.image), chunk)
                for pair, image in zip(chunk, decoded, strict=True):
                    if image is None:
                        bad.add(pair.key)
                        continue
                    pairs.append(Pair(pair.key, b"", pair.captions, pair.concept, pair.meta))
                    marks.append(sample_mark(pair))
                    if crops is None:
                        images.append(image)
                    else:
                        encoded.append(pair.image)
        bad.check(len(pairs) + len(bad.keys), final=True)
        keys, viewed = [pair.key for pair in pairs], None
        if crops is not None:
            viewed = ViewedPictures(keys, encoded, crops, workers)
        return cls(source.name, pairs, images, bad, marks=marks, viewed=viewed, texts=source.texts)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def memories(self) -> tuple[PairMemory, ...]:
        """These pairs, which are in memory."""
        return (self,)

    @property
    def streams(self) -> tuple[()]:
        """None of these pairs is streamed."""
        return ()

    @property
    def position(self) -> None:
        """None, because a batch does not depend on earlier ones."""

    def skipped(self) -> list[str]:
        """Return lines about truncated shards, faulty samples, bad images and repeated texts."""
        lines = [] if self.texts is None else self.texts.notes()
        return [*self.bad.report(len(self) + len(self.bad.keys)), *lines]

    @property
    def fingerprint(self) -> str:
        """Hash of keys and captions in order, on which caches and resumed runs depend."""
        digest = hashlib.sha256()
        for text in (*self.keys, "", *self.captions):
            # File names are not always UTF-8.
            digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()

    def label(self, concept: int) -> str:
        """Return the first caption of the first picture of a concept."""
        return self.captions[self._of_picture.first(self._of_concept.first(concept))]

    def largest_batch(self, *, distinct: bool) -> int:
        """Return the largest size of a batch without repetition."""
        return len(self.concepts) if self._distinct(distinct=distinct) else len(self)

    def check_batch(self, size: int, *, distinct: bool) -> None:
        """Raise DataError if a batch cannot be filled."""
        distinct, have = self._distinct(distinct=distinct), self.largest_batch(distinct=distinct)
        if size > have:
            pictures = "pairs" if self.texts is None else "pictures"
            items = "distinct concepts" if distinct else pictures
            cure = " or set data.batch_distinct=false" if distinct and size <= len(self) else ""
            raise DataError(
                f"optim.batch_size {size} exceeds the {have:,} {items} of {self.name}; "
                f"lower it{cure}"
            )

    def batch(
        self, step: int, size: int, *, seed: int, distinct: bool = True, rows: slice = WHOLE
    ) -> Batch:
        """Return ``rows`` of the batch of a step (from 0); an epoch visits each picture once."""
        draw = self._draw(step, size, seed, distinct=distinct)
        return self._finish(draw, rows, self._begin(draw, rows))

    def batches(
        self,
        start: int,
        size: int,
        *,
        seed: int,
        distinct: bool = True,
        rows: slice = WHOLE,
        position: object = None,
    ) -> Iterator[Batch]:
        """Yield ``rows`` of the batches of steps ``start``, ``start + 1`` … endlessly.

        ``position`` applies to streams and is ignored here.
        """
        self.check_batch(size, distinct=distinct)
        waiting: deque[tuple[_Draw, list[Future[Tensor | None]]]] = deque()
        for step in count(start):
            draw = self._draw(step, size, seed, distinct=distinct)
            waiting.append((draw, self._begin(draw, rows)))
            if self.viewed is None or len(waiting) > AHEAD:
                draw, begun = waiting.popleft()
                yield self._finish(draw, rows, begun)

    def _distinct(self, *, distinct: bool) -> bool:
        """Whether a batch must have distinct concepts; without captions they are unknown."""
        return distinct and self.texts is None

    def _draw(self, step: int, size: int, seed: int, *, distinct: bool) -> _Draw:
        distinct = self._distinct(distinct=distinct)
        epoch, slot = divmod(step, self._slots(size, distinct=distinct))
        ids = self._epoch(seed, epoch, size, distinct=distinct)[slot]
        if self.texts is None:
            random = np.random.default_rng([seed, 1, step]).random(size)
            captions = self._of_picture.draw(ids, random)
        else:
            captions = self.texts.draw(seed, step, size)
        views = 1 if self.viewed is None else self.viewed.crops.count
        return _Draw(ids, captions, epoch % views)

    def _begin(self, draw: _Draw, rows: slice) -> list[Future[Tensor | None]]:
        return [] if self.viewed is None else self.viewed.begin(draw.ids[rows], draw.view)

    def _finish(self, draw: _Draw, rows: slice, begun: list[Future[Tensor | None]]) -> Batch:
        ids = draw.ids[rows]
        viewed = self.viewed
        return Batch(
            keys=tuple(self.keys[i] for i in ids),
            pixels=torch.stack([self.images[i] for i in ids])
            if viewed is None
            else viewed.finish(ids, begun),
            captions=tuple(self.captions[i] for i in draw.captions[rows]),
            image_ids=draw.ids if viewed is None else draw.ids * viewed.crops.count + draw.view,
            caption_ids=draw.captions,
        )

    def _slots(self, size: int, *, distinct: bool) -> int:
        """Return the number of batches of an epoch, cached because every step needs it."""
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
                size_used = len(self) // size * size
                order = rng.permutation(len(self))[:size_used].reshape(-1, size)
            self._order = (key, order)
        return self._order[1]
