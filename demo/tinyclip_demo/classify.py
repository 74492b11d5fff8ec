"""One image and a list of labels, put to several models."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.texts import fill_template
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.prompts import check_prompts, probabilities
from tinyclip_edge.runtime.protocol import Embedder, EmbedderSpec, Features, ImageInput

PROMPT_SETS_KEPT = 32
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """One model's answer; probabilities in the order of the labels, times in milliseconds."""

    model: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    agrees: bool  # its best label is the first model's best label
    preprocess_ms: float | None  # None where the model does not tell it apart
    image_ms: float
    text_ms: float | None  # None: these labels were encoded before
    compare_ms: float = 0.0
    number: int = 0  # of the model on the page
    spec: EmbedderSpec | None = None
    notes: tuple[str, ...] = ()  # what the model's context cuts of the prompts

    @property
    def best(self) -> str:
        """The most probable label."""
        return self.labels[int(np.argmax(self.probabilities))]


@dataclass(frozen=True, slots=True)
class _Answer:
    chances: npt.NDArray[np.float64]
    preprocess_ms: float | None
    image_ms: float
    text_ms: float | None
    compare_ms: float


class Classifier:
    """Keeps the features of label lists; calls to the models are the caller's to order."""

    def __init__(self, shelf: ModelRegistry) -> None:
        self._shelf = shelf
        self._prompts: OrderedDict[tuple[int, tuple[str, ...]], Features] = OrderedDict()

    def classify(
        self,
        picture: Image.Image,
        labels: tuple[str, ...],
        templates: Sequence[str],
        numbers: Sequence[int],
    ) -> list[ClassifyResult]:
        """Return the answers of the models with these numbers; the first is the reference."""
        notes = [self._notes(number, labels, templates) for number in numbers]
        prompts = [fill_template(template, labels) for template in templates]
        answers = [self._one(number, picture, prompts) for number in numbers]
        reference = int(np.argmax(answers[0].chances)) if answers else 0
        return [
            ClassifyResult(
                self._shelf.names[number],
                labels,
                tuple(map(float, answer.chances)),
                int(np.argmax(answer.chances)) == reference,
                answer.preprocess_ms,
                answer.image_ms,
                answer.text_ms,
                answer.compare_ms,
                number,
                self._shelf.slots[number].spec,
                cut,
            )
            for number, answer, cut in zip(numbers, answers, notes, strict=True)
        ]

    def _notes(
        self, number: int, labels: tuple[str, ...], templates: Sequence[str]
    ) -> tuple[str, ...]:
        """Say what is cut; raise DataError, naming the model, for labels that it takes for one."""
        try:
            return check_prompts(self._shelf.slots[number].embedder, labels, templates)
        except DataError as error:
            raise DataError(f"{self._shelf.names[number]}: {error}") from error

    def _one(self, number: int, picture: Image.Image, prompts: list[tuple[str, ...]]) -> _Answer:
        model = self._shelf.slots[number].embedder
        fitted, preprocess_ms = fitted_pixels(model, picture)
        image, image_ms = timed(lambda: model.encode_image([fitted]))
        text, text_ms = self._label_features(number, prompts)
        chances, compare_ms = timed(lambda: label_chances(model, text, image)[0])
        return _Answer(chances, preprocess_ms, image_ms, text_ms, compare_ms)

    def _label_features(
        self, number: int, prompts: list[tuple[str, ...]]
    ) -> tuple[Features, float | None]:
        """Return ``[C, D]``, the mean over the templates, and the time if any was encoded."""
        found = [self._prompt_features(number, filled) for filled in prompts]
        times = [elapsed for _, elapsed in found if elapsed is not None]
        spent = sum(times) if times else None
        if len(found) == 1:
            return found[0][0], spent
        mean = np.mean([features for features, _ in found], axis=0)
        unit: Features = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return unit, spent

    def _prompt_features(
        self, number: int, prompts: tuple[str, ...]
    ) -> tuple[Features, float | None]:
        # Whole lists are kept, not single prompts: int8 activations depend on their batch.
        key = (number, prompts)
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key], None
        model = self._shelf.slots[number].embedder
        features, elapsed = timed(lambda: model.encode_text(prompts))
        self._prompts[key] = features
        if len(self._prompts) > PROMPT_SETS_KEPT * len(self._shelf):
            self._prompts.popitem(last=False)
        return features, elapsed


def label_chances(model: Embedder, text: Features, images: Features) -> npt.NDArray[np.float64]:
    """Return ``[N, C]``: softmax over the labels, or a sigmoid each where the model has a bias."""
    logits = model.logit_scale * (images @ text.T).astype(np.float64)
    bias = getattr(getattr(model, "manifest", None), "logit_bias", None)
    return np.stack([probabilities(row, bias) for row in logits])


def fitted_pixels(model: Embedder, picture: Image.Image) -> tuple[ImageInput, float | None]:
    """Resize and crop apart where the model shows how; encoding then finds nothing left to do."""
    pixels = getattr(getattr(model, "preprocess", None), "pixels", None)
    if pixels is None:
        return picture, None
    return timed(lambda: pixels(picture))


def timed(work: Callable[[], Value]) -> tuple[Value, float]:
    """Return the result and the milliseconds it took."""
    began = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - began) * 1e3
