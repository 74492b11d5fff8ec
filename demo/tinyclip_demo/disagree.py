"""Mine a gallery and its captions for the pairs on which the models differ most."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_demo.classify import label_probabilities
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.search import Searcher
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.runtime.protocol import Features

TEXT_BATCH = 64
ROW_BLOCK = 64  # pictures compared at a time, which bounds memory
MAX_CACHED = 4
BY_DIVERGENCE, BY_RANK_GAP, FIRST_RIGHT = (
    "Predictions differ most",
    "Ranks differ most",
    "First model right, another wrong",
)
ORDERS = (BY_DIVERGENCE, BY_RANK_GAP, FIRST_RIGHT)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One model's top label for a picture, and the rank (from 1) of the picture's own caption."""

    label: str
    probability: float
    caption_rank: int
    caption_probability: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One pair and every model's prediction."""

    row: int  # in the gallery
    caption: str
    divergence: float  # bits, 0 to log2 of the number of models
    rank_gap: int
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, slots=True)
class MiningProgress:
    """Progress of encoding captions or comparing pairs, as a share of 1."""

    activity: str
    share: float


@dataclass(frozen=True, slots=True)
class MiningResult:
    """Every readable pair of a gallery; ``[N]`` per pair, ``[M, N]`` per model and pair."""

    names: tuple[str, ...]
    numbers: tuple[int, ...]  # of the models on the page
    classes: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    caption_classes: npt.NDArray[np.int64]  # index of the pair's caption among the classes
    divergence: Features
    predicted: npt.NDArray[np.int64]
    top_probability: Features
    caption_rank: npt.NDArray[np.int64]
    caption_probability: Features

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def differing(self) -> int:
        """Number of pairs for which the models' top labels differ."""
        return int(np.count_nonzero((self.predicted != self.predicted[0]).any(axis=0)))

    def top(self, order: str, count: int) -> list[Disagreement]:
        """Return the first pairs in that order; ties go to the larger divergence."""
        gap = self.caption_rank.max(axis=0) - self.caption_rank.min(axis=0)
        if order == FIRST_RIGHT:
            first_is_right = (self.caption_rank[0] == 1) & (self.caption_rank[1:] > 1).any(axis=0)
            selected = np.flatnonzero(first_is_right)
        else:
            selected = np.arange(len(self))
        sort_key = {
            BY_DIVERGENCE: self.divergence,
            BY_RANK_GAP: gap,
            FIRST_RIGHT: self.caption_rank.max(axis=0),
        }[order]
        ranked = selected[np.lexsort((-self.divergence[selected], -sort_key[selected]))]
        return [self._disagreement(int(index), int(gap[index])) for index in ranked[:count]]

    def _disagreement(self, index: int, gap: int) -> Disagreement:
        predictions = tuple(
            Prediction(
                self.classes[self.predicted[model, index]],
                float(self.top_probability[model, index]),
                int(self.caption_rank[model, index]),
                float(self.caption_probability[model, index]),
            )
            for model in range(len(self.names))
        )
        caption = self.classes[self.caption_classes[index]]
        return Disagreement(
            int(self.rows[index]), caption, float(self.divergence[index]), gap, predictions
        )


class Miner:
    """Mines disagreements and caches recent results; models run under the lock."""

    def __init__(
        self, registry: ModelRegistry, searcher: Searcher, lock: AbstractContextManager[object]
    ) -> None:
        self._registry, self._searcher, self._lock = registry, searcher, lock
        self._results: OrderedDict[tuple[int, tuple[int, ...]], tuple[Gallery, MiningResult]] = (
            OrderedDict()
        )
        self._texts: OrderedDict[tuple[int, int], tuple[Gallery, Features]] = OrderedDict()

    def has_mined(self, gallery: Gallery, numbers: Sequence[int]) -> bool:
        """Whether the result is cached."""
        return (id(gallery), tuple(numbers)) in self._results

    def mine(
        self, gallery: Gallery, numbers: Sequence[int]
    ) -> Iterator[MiningProgress | MiningResult]:
        """Yield progress, then the result; the gallery must be indexed already.

        Raises ConfigError for a single model, DataError for fewer than two distinct captions.
        """
        check_several(numbers)
        key = (id(gallery), tuple(numbers))
        if key in self._results:
            self._results.move_to_end(key)
            yield self._results[key][1]
            return
        classes = tuple(dict.fromkeys(gallery.captions))
        if len(classes) < 2:
            raise DataError(f"gallery {gallery.name} needs pictures of at least two names")
        texts = []
        for index, number in enumerate(numbers):
            for share in self._encode(number, gallery, classes):
                progress = (index + share) / len(numbers)
                yield MiningProgress(f"Encoding {len(classes):,} captions", progress)
            texts.append(self._texts[number, id(gallery)][1])
        result = None
        for result_or_share in self._compare(gallery, numbers, classes, texts):
            if isinstance(result_or_share, MiningResult):
                result = result_or_share
            else:
                yield MiningProgress("Comparing answers", result_or_share)
        assert result is not None
        self._results[key] = (gallery, result)
        while len(self._results) > MAX_CACHED:
            self._results.popitem(last=False)
        yield result

    def _encode(self, number: int, gallery: Gallery, classes: Sequence[str]) -> Iterator[float]:
        key = (number, id(gallery))
        if key not in self._texts:
            parts = []
            for start in range(0, len(classes), TEXT_BATCH):
                with self._lock:
                    model = self._registry.slots[number].embedder
                    parts.append(model.encode_text(classes[start : start + TEXT_BATCH]))
                yield min(1.0, (start + TEXT_BATCH) / len(classes))
            # Holding the gallery keeps its id from being reused.
            self._texts[key] = (gallery, np.concatenate(parts))
            while len(self._texts) > MAX_CACHED * max(3, len(self._registry)):
                self._texts.popitem(last=False)

    def _compare(
        self,
        gallery: Gallery,
        numbers: Sequence[int],
        classes: tuple[str, ...],
        texts: Sequence[Features],
    ) -> Iterator[float | MiningResult]:
        indexes = [self._searcher.index(number, gallery) for number in numbers]
        rows = np.flatnonzero(indexes[0].readable)
        class_indices = {name: class_index for class_index, name in enumerate(classes)}
        caption_classes = np.array(
            [class_indices[gallery.captions[row]] for row in rows], dtype=np.int64
        )
        parts = []
        for start in range(0, len(rows), ROW_BLOCK):
            block = rows[start : start + ROW_BLOCK]
            probabilities = np.stack(
                [
                    label_probabilities(
                        self._registry.slots[model_number].embedder, text, index.features[block]
                    )
                    for model_number, text, index in zip(numbers, texts, indexes, strict=True)
                ]
            )
            parts.append(_figures(probabilities, caption_classes[start : start + ROW_BLOCK]))
            yield min(1.0, (start + ROW_BLOCK) / len(rows))
        if not parts:
            raise DataError(f"gallery {gallery.name} has no picture that decodes")
        names = tuple(self._registry.names[number] for number in numbers)
        columns = [np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)]
        yield MiningResult(names, tuple(numbers), classes, rows, caption_classes, *columns)


def check_several(numbers: Sequence[int]) -> None:
    """Raise ConfigError for a single model."""
    if len(numbers) < 2:
        raise ConfigError("one model cannot disagree: tick at least two under Models")


def divergence(probabilities: npt.NDArray[np.float64]) -> Features:
    """Return the Jensen-Shannon divergence ``[N]`` of ``[M, N, C]`` distributions, in bits."""
    shares = probabilities / probabilities.sum(axis=-1, keepdims=True)
    jensen_shannon = _entropy(shares.mean(axis=0)) - _entropy(shares).mean(axis=0)
    bits: Features = np.maximum(jensen_shannon, 0).astype(np.float32)
    return bits


def _entropy(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: npt.NDArray[np.float64] = -(shares * logs).sum(axis=-1)
    return entropy


def _figures(
    probabilities: npt.NDArray[np.float64], caption_classes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[Any], ...]:
    """Return the divergence ``[n]``, then four arrays ``[M, n]`` in the order of MiningResult."""
    predicted = probabilities.argmax(axis=-1)
    top_probability = probabilities.max(axis=-1)
    caption_probability = probabilities[:, np.arange(len(caption_classes)), caption_classes]
    caption_rank = 1 + (probabilities > caption_probability[..., None]).sum(axis=-1)
    return (
        divergence(probabilities),
        predicted,
        top_probability,
        caption_rank.astype(np.int64),
        caption_probability,
    )
