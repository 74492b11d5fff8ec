"""A text or a picture, put to the galleries' indexes of several models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_demo.classify import timed
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.index import GalleryIndex
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.protocol import Features

INDEXES_KEPT = 24


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One picture found, with its place in the first model's order."""

    index: int
    score: float  # cosine similarity
    rank: int  # from 1
    reference_rank: int  # from 1


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One model's best pictures."""

    model: str
    hits: tuple[SearchHit, ...]
    overlap: float  # share of the first model's pictures that it shows too
    query_ms: float
    rank_ms: float
    index_seconds: float  # for the whole gallery: to encode it, or to read its index
    index_kept: bool = False  # read from disk
    number: int = 0  # of the model on the page


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far the gallery is encoded."""

    number: int  # of the model on the page
    done: int
    total: int
    finished: tuple[int, ...] = ()  # models that need no more


@dataclass(frozen=True, slots=True)
class _Found:
    order: npt.NDArray[np.int64]  # rows, best first
    scores: Features
    query_ms: float
    rank_ms: float


class Searcher:
    """Indexes by model and gallery; the models run under the lock, one at a time."""

    def __init__(
        self, shelf: ModelRegistry, lock: AbstractContextManager[object], folder: Path | None
    ) -> None:
        self._shelf, self._lock, self._folder = shelf, lock, folder
        self._indexes: OrderedDict[tuple[int, int], GalleryIndex] = OrderedDict()

    def index(self, number: int, gallery: Gallery) -> GalleryIndex:
        """The model's index of the gallery, full or not."""
        with self._lock:
            key = (number, id(gallery))
            found = self._indexes.get(key)
            if found is None:
                model = self._shelf.slots[number].embedder
                found = GalleryIndex.open(gallery, model, self._folder)
                self._indexes[key] = found
                while len(self._indexes) > INDEXES_KEPT:
                    self._indexes.popitem(last=False)
            self._indexes.move_to_end(key)
            return found

    def indexing(self, gallery: Gallery, numbers: Sequence[int]) -> Iterator[IndexProgress]:
        """Encode the gallery with every model that has not done so; yield after every batch.

        Two callers share the work: each batch is encoded once, under the lock.
        """
        for place, number in enumerate(numbers):
            while True:
                with self._lock:
                    index = self.index(number, gallery)
                    if index.complete:
                        break
                    if index.encode_batch():
                        index.keep(self._folder)
                    done = index.done
                yield IndexProgress(number, done, len(gallery), tuple(numbers[:place]))

    def search(
        self, query: str | Image.Image, k: int, gallery: Gallery, numbers: Sequence[int]
    ) -> list[SearchResult]:
        """Return every model's ``k`` best pictures; raise DataError when none decodes."""
        for _ in self.indexing(gallery, numbers):
            pass
        with self._lock:
            found = [self._one(number, query, gallery) for number in numbers]
        readable = int(self.index(numbers[0], gallery).readable.sum())
        if readable == 0:
            raise DataError(f"gallery {gallery.name} has no picture that decodes")
        k = max(1, min(k, readable))
        place = np.empty(len(gallery), dtype=np.int64)
        place[found[0].order] = np.arange(1, len(gallery) + 1)
        return [
            self._result(number, gallery, one, place, k)
            for number, one in zip(numbers, found, strict=True)
        ]

    def unreadable(self, gallery: Gallery, number: int) -> int:
        """Pictures that failed to decode, as far as they were tried."""
        index = self.index(number, gallery)
        return int(index.done - index.readable.sum())

    def _result(
        self, number: int, gallery: Gallery, found: _Found, place: npt.NDArray[np.int64], k: int
    ) -> SearchResult:
        best, index = found.order[:k], self.index(number, gallery)
        return SearchResult(
            self._shelf.names[number],
            tuple(
                SearchHit(int(at), float(found.scores[at]), rank, int(place[at]))
                for rank, at in enumerate(best, start=1)
            ),
            float(np.mean(place[best] <= k)),
            found.query_ms,
            found.rank_ms,
            index.seconds,
            index.from_disk,
            number,
        )

    def _one(self, number: int, query: str | Image.Image, gallery: Gallery) -> _Found:
        model = self._shelf.slots[number].embedder
        if isinstance(query, str):
            asked, query_ms = timed(lambda: model.encode_text([query]))
        else:
            asked, query_ms = timed(lambda: model.encode_image([query]))
        index = self.index(number, gallery)
        (order, scores), rank_ms = timed(lambda: _ranked(index.scores(asked[0])))
        return _Found(order, scores, query_ms, rank_ms)


def _ranked(scores: Features) -> tuple[npt.NDArray[np.int64], Features]:
    return np.argsort(-scores, kind="stable"), scores
