"""Classify one image among a list of labels with several models."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.texts import fill_template
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.confidence import ALWAYS, Confidence, Decision
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.prompts import check_prompts
from tinyclip_edge.runtime.protocol import Embedder, EmbedderSpec, Features, ImageInput

MAX_CACHED_PROMPT_SETS = 32
NONE_OF_THESE = "none of these"
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """One model's probabilities, in the order of the labels, and times in milliseconds."""

    model: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    agrees: bool  # same result as the first model
    preprocess_ms: float | None  # None if it is part of image_ms
    image_ms: float
    text_ms: float | None  # None if the labels were cached
    compare_ms: float = 0.0
    number: int = 0  # of the model on the page
    spec: EmbedderSpec | None = None
    notes: tuple[str, ...] = ()  # prompts cut to the model's context length
    familiar: bool | None = None  # whether the model knows such pictures; None: it cannot tell
    threshold: float | None = None  # of the best probability; None: not calibrated for the labels

    @property
    def best(self) -> str:
        """The most probable label."""
        return self.labels[int(np.argmax(self.probabilities))]

    @property
    def unknown(self) -> bool:
        """Whether the best probability is below the threshold."""
        return self.threshold is not None and max(self.probabilities) < self.threshold

    @property
    def answer(self) -> str:
        """The most probable label, unless the picture is unknown."""
        return NONE_OF_THESE if self.unknown else self.best


@dataclass(frozen=True, slots=True)
class _Prediction:
    probabilities: npt.NDArray[np.float64]
    preprocess_ms: float | None
    image_ms: float
    text_ms: float | None
    compare_ms: float
    familiar: bool | None
    decision: Decision


class Classifier:
    """Caches the features of label lists; the caller must serialise calls to the models."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._prompts: OrderedDict[tuple[int, tuple[str, ...]], Features] = OrderedDict()

    def classify(
        self,
        picture: Image.Image,
        labels: tuple[str, ...],
        templates: Sequence[str],
        numbers: Sequence[int],
    ) -> list[ClassifyResult]:
        """Return the results of the models with these numbers; the first is the reference."""
        notes = [self.notes(number, labels, templates) for number in numbers]
        predictions = [self._predict(number, picture, labels, templates) for number in numbers]
        results = [
            ClassifyResult(
                self._registry.names[number],
                labels,
                tuple(map(float, prediction.probabilities)),
                True,
                prediction.preprocess_ms,
                prediction.image_ms,
                prediction.text_ms,
                prediction.compare_ms,
                number,
                self._registry.slots[number].spec,
                model_notes,
                prediction.familiar,
                prediction.decision.threshold,
            )
            for number, prediction, model_notes in zip(numbers, predictions, notes, strict=True)
        ]
        return [replace(each, agrees=each.answer == results[0].answer) for each in results]

    def notes(
        self, number: int, labels: tuple[str, ...], templates: Sequence[str]
    ) -> tuple[str, ...]:
        """Return notes on cut prompts; raise DataError for labels with the same tokens."""
        try:
            return check_prompts(self._registry.slots[number].embedder, labels, templates)
        except DataError as error:
            raise DataError(f"{self._registry.names[number]}: {error}") from error

    def _predict(
        self,
        number: int,
        picture: Image.Image,
        labels: tuple[str, ...],
        templates: Sequence[str],
    ) -> _Prediction:
        model = self._registry.slots[number].embedder
        fitted, preprocess_ms = preprocess_pixels(model, picture)
        image, image_ms = timed(lambda: model.encode_image([fitted]))
        text, text_ms = self.label_features(number, labels, templates)
        decided = calibrated_decision(model, labels, templates)
        chances, compare_ms = timed(lambda: label_probabilities(model, text, image, decided)[0])
        familiar = is_familiar(model, image, fitted)
        return _Prediction(chances, preprocess_ms, image_ms, text_ms, compare_ms, familiar, decided)

    def label_features(
        self, number: int, labels: tuple[str, ...], templates: Sequence[str]
    ) -> tuple[Features, float | None]:
        """Return ``[C, D]``, averaged over templates, and milliseconds unless all were cached."""
        encoded = [
            self._prompt_features(number, fill_template(template, labels)) for template in templates
        ]
        times = [elapsed for _, elapsed in encoded if elapsed is not None]
        total_ms = sum(times) if times else None
        if len(encoded) == 1:
            return encoded[0][0], total_ms
        mean_features = np.mean([features for features, _ in encoded], axis=0)
        unit: Features = mean_features / np.linalg.norm(mean_features, axis=1, keepdims=True)
        return unit, total_ms

    def _prompt_features(
        self, number: int, prompts: tuple[str, ...]
    ) -> tuple[Features, float | None]:
        # Whole lists are cached, not single prompts, since int8 activations depend on the batch.
        key = (number, prompts)
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key], None
        model = self._registry.slots[number].embedder
        features, elapsed = timed(lambda: model.encode_text(prompts))
        self._prompts[key] = features
        if len(self._prompts) > MAX_CACHED_PROMPT_SETS * len(self._registry):
            self._prompts.popitem(last=False)
        return features, elapsed


def is_familiar(model: Embedder, features: Features, picture: ImageInput) -> bool | None:
    """Whether a picture with features ``[1, D]`` is like the training's; None if unknown."""
    familiarity = getattr(model, "familiarity", None)
    if familiarity is None or not isinstance(model, EdgeCLIP):
        return None
    known: list[bool] = familiarity.knows(features, model.preprocess.batch([picture]))
    return known[0]


def calibrated_decision(
    model: Embedder, labels: Sequence[str], templates: Sequence[str]
) -> Decision:
    """Return a bundle's own threshold and temperature if they were calibrated for these labels."""
    confidence: Confidence | None = getattr(model, "confidence", None)
    if confidence is None or not confidence.covers(labels, templates):
        return ALWAYS
    return confidence.decision


def label_probabilities(
    model: Embedder, text: Features, images: Features, decision: Decision = ALWAYS
) -> npt.NDArray[np.float64]:
    """Return ``[N, C]``: softmax over the labels, or sigmoids for a model with a logit bias."""
    logits = model.logit_scale * (images @ text.T).astype(np.float64)
    bias = getattr(getattr(model, "manifest", None), "logit_bias", None)
    return decision.probabilities(logits, bias)


def preprocess_pixels(model: Embedder, picture: Image.Image) -> tuple[ImageInput, float | None]:
    """Resize and crop separately from encoding, if the model exposes its preprocessing."""
    pixels = getattr(getattr(model, "preprocess", None), "pixels", None)
    if pixels is None:
        return picture, None
    return timed(lambda: pixels(picture))


def timed(work: Callable[[], Value]) -> tuple[Value, float]:
    """Return the result of a call and its duration in milliseconds."""
    start = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - start) * 1e3
