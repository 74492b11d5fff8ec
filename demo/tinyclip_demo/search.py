"""Search galleries by text or picture with the indexes of several models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_demo.classify import is_familiar, timed
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.index import GalleryIndex
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.protocol import Features

MAX_CACHED_INDEXES = 24


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One search result, with its rank in the first model's results."""

    index: int
    score: float  # cosine similarity
    rank: int  # from 1
    reference_rank: int  # from 1


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One model's top pictures."""

    model: str
    hits: tuple[SearchHit, ...]
    overlap: float  # share of the pictures in common with the first model
    query_ms: float
    rank_ms: float
    index_seconds: float  # to encode the whole gallery, or to read its index
    index_from_disk: bool = False  # read from disk
    number: int = 0  # of the model on the page
    familiar: bool | None = None  # whether the model knows pictures like the query


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """Progress of encoding the gallery."""

    number: int  # of the model on the page
    encoded: int
    total: int
    completed: tuple[int, ...] = ()  # models whose index is complete


@dataclass(frozen=True, slots=True)
class _Ranking:
    order: npt.NDArray[np.int64]  # rows, best first
    scores: Features
    query_ms: float
    rank_ms: float
    familiar: bool | None


class Searcher:
    """Indexes by model and gallery; models run under the lock, one at a time."""

    def __init__(
        self, registry: ModelRegistry, lock: AbstractContextManager[object], folder: Path | None
    ) -> None:
        self._registry, self._lock, self._folder = registry, lock, folder
        self._indexes: OrderedDict[tuple[int, int], GalleryIndex] = OrderedDict()

    def index(self, number: int, gallery: Gallery) -> GalleryIndex:
        """Return the model's index of the gallery, complete or not."""
        with self._lock:
            key = (number, id(gallery))
            gallery_index = self._indexes.get(key)
            if gallery_index is None:
                model = self._registry.slots[number].embedder
                gallery_index = GalleryIndex.open(gallery, model, self._folder)
                self._indexes[key] = gallery_index
                while len(self._indexes) > MAX_CACHED_INDEXES:
                    self._indexes.popitem(last=False)
            self._indexes.move_to_end(key)
            return gallery_index

    def indexing(self, gallery: Gallery, numbers: Sequence[int]) -> Iterator[IndexProgress]:
        """Complete the indexes of all models; yield after every batch.

        Concurrent callers share the work: each batch is encoded once, under the lock.
        """
        for position, number in enumerate(numbers):
            while True:
                with self._lock:
                    index = self.index(number, gallery)
                    if index.complete:
                        break
                    if index.encode_batch():
                        index.save(self._folder)
                    encoded = index.encoded
                yield IndexProgress(number, encoded, len(gallery), tuple(numbers[:position]))

    def search(
        self, query: str | Image.Image, k: int, gallery: Gallery, numbers: Sequence[int]
    ) -> list[SearchResult]:
        """Return every model's top ``k`` pictures; raise DataError when none decodes."""
        for _ in self.indexing(gallery, numbers):
            pass
        with self._lock:
            rankings = [self._rank(number, query, gallery) for number in numbers]
        readable = int(self.index(numbers[0], gallery).readable.sum())
        if readable == 0:
            raise DataError(f"gallery {gallery.name} has no picture that decodes")
        k = max(1, min(k, readable))
        reference_ranks = np.empty(len(gallery), dtype=np.int64)
        reference_ranks[rankings[0].order] = np.arange(1, len(gallery) + 1)
        return [
            self._result(number, gallery, ranking, reference_ranks, k)
            for number, ranking in zip(numbers, rankings, strict=True)
        ]

    def unreadable(self, gallery: Gallery, number: int) -> int:
        """Return the number of pictures that failed to decode so far."""
        index = self.index(number, gallery)
        return int(index.encoded - index.readable.sum())

    def _result(
        self,
        number: int,
        gallery: Gallery,
        ranking: _Ranking,
        reference_ranks: npt.NDArray[np.int64],
        k: int,
    ) -> SearchResult:
        top_rows, index = ranking.order[:k], self.index(number, gallery)
        return SearchResult(
            self._registry.names[number],
            tuple(
                SearchHit(int(row), float(ranking.scores[row]), rank, int(reference_ranks[row]))
                for rank, row in enumerate(top_rows, start=1)
            ),
            float(np.mean(reference_ranks[top_rows] <= k)),
            ranking.query_ms,
            ranking.rank_ms,
            index.seconds,
            index.from_disk,
            number,
            ranking.familiar,
        )

    def _rank(self, number: int, query: str | Image.Image, gallery: Gallery) -> _Ranking:
        model = self._registry.slots[number].embedder
        familiar = None
        if isinstance(query, str):
            query_features, query_ms = timed(lambda: model.encode_text([query]))
        else:
            query_features, query_ms = timed(lambda: model.encode_image([query]))
            familiar = is_familiar(model, query_features, query)
        index = self.index(number, gallery)
        (order, scores), rank_ms = timed(lambda: _ranked(index.scores(query_features[0])))
        return _Ranking(order, scores, query_ms, rank_ms, familiar)


def _ranked(scores: Features) -> tuple[npt.NDArray[np.int64], Features]:
    return np.argsort(-scores, kind="stable"), scores
