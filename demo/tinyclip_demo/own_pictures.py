"""Whether models agree on a visitor's pictures: N pictures, C labels, M models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyclip_demo.classify import Classifier, calibrated_decision, label_probabilities
from tinyclip_demo.disagree import check_several, divergence
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.search import Searcher
from tinyclip_edge.collection.outliers import far_images
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.confidence import ALWAYS, Decision
from tinyclip_edge.runtime.protocol import Embedder, Features
from tinyclip_edge.tailoring.agreement import Agreement, agreement


@dataclass(frozen=True, slots=True)
class ModelAnswers:
    """One model's predictions for all pictures."""

    number: int  # of the model on the page
    name: str
    first: npt.NDArray[np.int64]  # [N] the most probable label
    probability: npt.NDArray[np.float64]  # [N] its probability
    unknown: npt.NDArray[np.bool_] | None  # [N] below a threshold; None: not calibrated
    agreement: Agreement  # with the first model; the first model's own is complete


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """The predictions of several models; the first is the reference."""

    labels: tuple[str, ...]
    rows: npt.NDArray[np.int64]  # [N] of the pictures in the gallery
    broken: tuple[str, ...]  # names of pictures that do not decode
    answers: tuple[ModelAnswers, ...]
    divergence: Features  # [N] of the models' probabilities, in bits
    far: tuple[int, ...]  # pictures far from all labels, by the first model; most distant first
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def differing(self) -> list[int]:
        """Pictures whose first labels are not all the same, those that differ most first."""
        firsts = np.stack([answers.first for answers in self.answers])
        differ = np.flatnonzero((firsts != firsts[0]).any(axis=0))
        order = np.argsort(-self.divergence[differ], kind="stable")
        return [int(place) for place in differ[order]]

    def confusion(self, student: ModelAnswers) -> npt.NDArray[np.int64]:
        """Return ``[C, C]``: pictures by the first model's label and by the student's."""
        counts = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        np.add.at(counts, (self.answers[0].first, student.first), 1)
        return counts


class Comparer:
    """Compares models on galleries that are indexed already; models run under the lock."""

    def __init__(
        self,
        registry: ModelRegistry,
        searcher: Searcher,
        classifier: Classifier,
        lock: AbstractContextManager[object],
    ) -> None:
        self._registry, self._searcher = registry, searcher
        self._classifier, self._lock = classifier, lock

    def compare(
        self,
        gallery: Gallery,
        labels: tuple[str, ...],
        templates: Sequence[str],
        numbers: Sequence[int],
    ) -> AnswerComparison:
        """Return the predictions of the models with these numbers.

        Raises ConfigError for a single model, DataError when no picture decodes or when a model
        cannot tell two labels apart.
        """
        check_several(numbers)
        indexes = [self._searcher.index(number, gallery) for number in numbers]
        readable = indexes[0].readable
        rows = np.flatnonzero(readable)
        if not len(rows):
            raise DataError(f"none of {len(gallery):,} pictures can be decoded")
        with self._lock:
            notes = [
                f"{self._registry.names[number]}: {note}"
                for number in numbers
                for note in self._classifier.notes(number, labels, templates)
            ]
            texts = [
                self._classifier.label_features(number, labels, templates)[0] for number in numbers
            ]
        views = [
            _View(self._registry.slots[number].embedder, index.features[rows], text)
            for number, index, text in zip(numbers, indexes, texts, strict=True)
        ]
        probabilities = np.stack([view.probabilities() for view in views])
        answers = []
        for number, view, chances in zip(numbers, views, probabilities, strict=True):
            decided = calibrated_decision(view.model, labels, templates)
            tempered = view.probabilities(decided)
            best = tempered.max(axis=1)
            answers.append(
                ModelAnswers(
                    number,
                    self._registry.names[number],
                    chances.argmax(axis=1),
                    best,
                    None if decided.threshold is None else best < decided.threshold,
                    agreement(probabilities[0], chances),
                )
            )
        return AnswerComparison(
            labels,
            rows,
            tuple(gallery.captions[row] for row in np.flatnonzero(~readable)),
            tuple(answers),
            divergence(probabilities),
            tuple(far_images((views[0].images @ views[0].labels.T).max(axis=1))),
            tuple(notes),
        )


@dataclass(frozen=True, slots=True)
class _View:
    """A model with its features of pictures ``[N, D]`` and labels ``[C, D]``."""

    model: Embedder
    images: Features
    labels: Features

    def probabilities(self, decision: Decision = ALWAYS) -> npt.NDArray[np.float64]:
        """Return ``[N, C]``, at the temperature of a decision."""
        return label_probabilities(self.model, self.labels, self.images, decision)
