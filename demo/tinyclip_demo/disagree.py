"""Pairs on which the models differ most, mined from a gallery and its captions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_demo.classify import label_chances
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.search import Searcher
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.runtime.protocol import Features

TEXT_BATCH = 64
ROW_BLOCK = 64  # pictures whose answers stand in memory at once
KEPT = 4
ANSWERS, RANKS, LOST = (
    "Answers differ most",
    "Ranks differ most",
    "First model right, another wrong",
)
ORDERS = (ANSWERS, RANKS, LOST)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model says of one picture; the rank is that of its own caption, from 1."""

    label: str
    chance: float
    own_rank: int
    own_chance: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One pair and every model's answer."""

    row: int  # in the gallery
    caption: str
    divergence: float  # bits, 0 to log2 of the number of models
    rank_gap: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class MiningProgress:
    """How far the captions are encoded, or the pairs compared."""

    doing: str
    share: float


@dataclass(frozen=True, slots=True)
class Mined:
    """Every readable pair of a gallery; ``[N]`` per pair, ``[M, N]`` per model and pair."""

    names: tuple[str, ...]
    numbers: tuple[int, ...]  # of the models on the page
    classes: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    own: npt.NDArray[np.int64]  # place of the pair's caption among the classes
    divergence: Features
    best: npt.NDArray[np.int64]
    best_chance: Features
    own_rank: npt.NDArray[np.int64]
    own_chance: Features

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def differing(self) -> int:
        """Pairs on which the models do not all give the same answer."""
        return int(np.count_nonzero((self.best != self.best[0]).any(axis=0)))

    def top(self, order: str, count: int) -> list[Disagreement]:
        """Return the first pairs in that order; ties fall to the larger divergence."""
        gap = self.own_rank.max(axis=0) - self.own_rank.min(axis=0)
        if order == LOST:
            lost = (self.own_rank[0] == 1) & (self.own_rank[1:] > 1).any(axis=0)
            chosen = np.flatnonzero(lost)
        else:
            chosen = np.arange(len(self))
        first = {ANSWERS: self.divergence, RANKS: gap, LOST: self.own_rank.max(axis=0)}[order]
        ranked = chosen[np.lexsort((-self.divergence[chosen], -first[chosen]))]
        return [self._one(int(at), int(gap[at])) for at in ranked[:count]]

    def _one(self, at: int, gap: int) -> Disagreement:
        answers = tuple(
            Answer(
                self.classes[self.best[model, at]],
                float(self.best_chance[model, at]),
                int(self.own_rank[model, at]),
                float(self.own_chance[model, at]),
            )
            for model in range(len(self.names))
        )
        caption = self.classes[self.own[at]]
        return Disagreement(int(self.rows[at]), caption, float(self.divergence[at]), gap, answers)


class Miner:
    """Keeps what was mined last; the models run under the lock."""

    def __init__(
        self, shelf: ModelRegistry, searcher: Searcher, lock: AbstractContextManager[object]
    ) -> None:
        self._shelf, self._searcher, self._lock = shelf, searcher, lock
        self._kept: OrderedDict[tuple[int, tuple[int, ...]], tuple[Gallery, Mined]] = OrderedDict()
        self._texts: OrderedDict[tuple[int, int], tuple[Gallery, Features]] = OrderedDict()

    def mine(self, gallery: Gallery, numbers: Sequence[int]) -> Iterator[MiningProgress | Mined]:
        """Yield progress, at the end what was found; the gallery must be indexed before.

        Raise ConfigError for one model, DataError when fewer than two captions are there.
        """
        if len(numbers) < 2:
            raise ConfigError("one model cannot disagree: tick at least two under Models")
        key = (id(gallery), tuple(numbers))
        if key in self._kept:
            self._kept.move_to_end(key)
            yield self._kept[key][1]
            return
        classes = tuple(dict.fromkeys(gallery.captions))
        if len(classes) < 2:
            raise DataError(f"gallery {gallery.name} needs pictures of at least two names")
        texts = []
        for place, number in enumerate(numbers):
            for share in self._encode(number, gallery, classes):
                done = (place + share) / len(numbers)
                yield MiningProgress(f"Encoding {len(classes):,} captions", done)
            texts.append(self._texts[number, id(gallery)][1])
        mined = None
        for mined_or_share in self._compare(gallery, numbers, classes, texts):
            if isinstance(mined_or_share, Mined):
                mined = mined_or_share
            else:
                yield MiningProgress("Comparing answers", mined_or_share)
        assert mined is not None
        self._kept[key] = (gallery, mined)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        yield mined

    def _encode(self, number: int, gallery: Gallery, classes: Sequence[str]) -> Iterator[float]:
        key = (number, id(gallery))
        if key not in self._texts:
            parts = []
            for start in range(0, len(classes), TEXT_BATCH):
                with self._lock:
                    model = self._shelf.slots[number].embedder
                    parts.append(model.encode_text(classes[start : start + TEXT_BATCH]))
                yield min(1.0, (start + TEXT_BATCH) / len(classes))
            # The gallery stands beside its features, so that its id stays its own.
            self._texts[key] = (gallery, np.concatenate(parts))
            while len(self._texts) > KEPT * max(3, len(self._shelf)):
                self._texts.popitem(last=False)

    def _compare(
        self,
        gallery: Gallery,
        numbers: Sequence[int],
        classes: tuple[str, ...],
        texts: Sequence[Features],
    ) -> Iterator[float | Mined]:
        indexes = [self._searcher.index(number, gallery) for number in numbers]
        rows = np.flatnonzero(indexes[0].readable)
        place = {name: at for at, name in enumerate(classes)}
        own = np.array([place[gallery.captions[row]] for row in rows], dtype=np.int64)
        parts = []
        for start in range(0, len(rows), ROW_BLOCK):
            block = rows[start : start + ROW_BLOCK]
            chances = np.stack(
                [
                    label_chances(self._shelf.slots[n].embedder, text, index.features[block])
                    for n, text, index in zip(numbers, texts, indexes, strict=True)
                ]
            )
            parts.append(_figures(chances, own[start : start + ROW_BLOCK]))
            yield min(1.0, (start + ROW_BLOCK) / len(rows))
        if not parts:
            raise DataError(f"gallery {gallery.name} has no picture that decodes")
        names = tuple(self._shelf.names[number] for number in numbers)
        joined = [np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)]
        yield Mined(names, tuple(numbers), classes, rows, own, *joined)


def divergence(chances: npt.NDArray[np.float64]) -> Features:
    """Return ``[N]`` in bits: how far ``[M, N, C]`` distributions lie apart (Jensen-Shannon)."""
    shares = chances / chances.sum(axis=-1, keepdims=True)
    apart = _entropy(shares.mean(axis=0)) - _entropy(shares).mean(axis=0)
    bits: Features = np.maximum(apart, 0).astype(np.float32)
    return bits


def _entropy(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    found: npt.NDArray[np.float64] = -(shares * logs).sum(axis=-1)
    return found


def _figures(
    chances: npt.NDArray[np.float64], own: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[Any], ...]:
    """Return divergence ``[n]``, then best, its chance, own rank, own chance, each ``[M, n]``."""
    best = chances.argmax(axis=-1)
    best_chance = chances.max(axis=-1)
    own_chance = chances[:, np.arange(len(own)), own]
    own_rank = 1 + (chances > own_chance[..., None]).sum(axis=-1)
    return divergence(chances), best, best_chance, own_rank.astype(np.int64), own_chance
