"""Classify and search with several models at once; knows numbers and pictures, no page."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from tinyclip_demo.gallery import Gallery, as_seen
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.runtime.protocol import Embedder, Features, ImageInput

MAX_LABELS = 200
MAX_TEXT = 200  # characters of one label or query
INDEX_BATCH = 32
PROMPT_SETS_KEPT = 32
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """One model's answer; probabilities in the order of the labels."""

    model: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    agrees: bool  # its best label is the first model's best label
    preprocess_ms: float | None  # None where the model does not tell it apart
    image_ms: float
    text_ms: float | None  # None: these labels were encoded before

    @property
    def best(self) -> str:
        """The most probable label."""
        return self.labels[int(np.argmax(self.probabilities))]


@dataclass(frozen=True, slots=True)
class Hit:
    """One picture found, with its place in the first model's order."""

    index: int
    score: float  # cosine similarity
    rank: int  # from 1
    reference_rank: int  # from 1


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One model's best pictures."""

    model: str
    hits: tuple[Hit, ...]
    overlap: float  # share of the first model's pictures that it shows too
    text_ms: float
    rank_ms: float
    index_seconds: float  # once, for the whole gallery


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far the gallery is encoded."""

    number: int  # of the model, from 0
    done: int
    total: int


class _GalleryIndex:
    """One model's features of the gallery, filled batch by batch."""

    def __init__(self, size: int, width: int) -> None:
        self.features: Features = np.zeros((size, width), dtype=np.float32)
        self.readable = np.zeros(size, dtype=bool)
        self.done = 0
        self.seconds = 0.0

    def scores(self, query: Features) -> Features:
        """Cosine similarities ``[N]``; minus infinity for pictures that did not decode."""
        return np.where(self.readable, self.features @ query, -np.inf).astype(np.float32)


class DemoService:
    """What the page asks of the models, one request at a time; the first model is the reference."""

    def __init__(self, models: Sequence[Embedder], gallery: Gallery) -> None:
        if not models:
            raise ConfigError("the demo needs at least one model: give --teacher or --student")
        self.models = tuple(models)
        self.names = _distinct_names(self.models)
        self.gallery = gallery
        self._lock = threading.RLock()
        self._indexes = [_GalleryIndex(len(gallery), m.spec.embedding_dim) for m in self.models]
        self._prompts: OrderedDict[tuple[int, tuple[str, ...]], Features] = OrderedDict()

    def warm_up(self) -> None:
        """Load what the models load late, so that the first visitor's figures mean something."""
        grey = Image.new("RGB", (64, 64), "grey")
        with self._lock:
            for model in self.models:
                model.encode_image([grey])
                model.encode_text(["picture"])

    def classify(
        self, image: ImageInput | None, labels: Sequence[str] | str, template: str = "{}"
    ) -> list[ClassifyResult]:
        """Return every model's probabilities; raise DataError for what the user has to mend."""
        if image is None:
            raise DataError("no image yet: upload one or pick an example")
        names = parse_labels(labels)
        prompts = fill_template(template, names)
        picture = as_seen(image, "the upload")
        with self._lock:
            answers = [self._classify_one(i, picture, prompts) for i in range(len(self.models))]
        reference = int(np.argmax(answers[0][0]))
        return [
            ClassifyResult(
                model, names, tuple(map(float, p)), int(np.argmax(p)) == reference, *times
            )
            for model, (p, times) in zip(self.names, answers, strict=True)
        ]

    def indexing(self) -> Iterator[IndexProgress]:
        """Encode the gallery with every model that has not done so; yield after every batch.

        Two callers share the work: each batch is encoded once, under the lock.
        """
        for number in range(len(self.models)):
            while True:
                with self._lock:
                    if self._indexes[number].done >= len(self.gallery):
                        break
                    self._index_batch(number)
                    done = self._indexes[number].done
                yield IndexProgress(number, done, len(self.gallery))

    def search(self, text: str, k: int = 10) -> list[SearchResult]:
        """Return every model's ``k`` best pictures; raise DataError for a blank query."""
        query = check_text(text, "query")
        for _ in self.indexing():
            pass
        with self._lock:
            found = [self._search_one(i, query) for i in range(len(self.models))]
        readable = int(self._indexes[0].readable.sum())
        if readable == 0:
            raise DataError(f"gallery {self.gallery.name} has no picture that decodes")
        k = max(1, min(k, readable))
        reference = found[0][0]
        reference_rank = np.empty(len(reference), dtype=np.int64)
        reference_rank[reference] = np.arange(1, len(reference) + 1)
        return [
            SearchResult(
                model,
                tuple(
                    Hit(int(at), float(scores[at]), rank, int(reference_rank[at]))
                    for rank, at in enumerate(order[:k], start=1)
                ),
                float(np.mean(reference_rank[order[:k]] <= k)),
                text_ms,
                rank_ms,
                index.seconds,
            )
            for model, index, (order, scores, text_ms, rank_ms) in zip(
                self.names, self._indexes, found, strict=True
            )
        ]

    @property
    def unreadable(self) -> int:
        """Gallery pictures that failed to decode, as far as they were tried."""
        first = self._indexes[0]
        return int(first.done - first.readable.sum())

    def _classify_one(
        self, number: int, picture: Image.Image, prompts: tuple[str, ...]
    ) -> tuple[Features, tuple[float | None, float, float | None]]:
        model = self.models[number]
        fitted, preprocess_ms = _fit(model, picture)
        features, image_ms = _timed(lambda: model.encode_image([fitted]))
        text, text_ms = self._prompt_features(number, prompts)
        logits = model.logit_scale * (text @ features[0]).astype(np.float64)
        weights = np.exp(logits - logits.max())
        return (weights / weights.sum()).astype(np.float32), (preprocess_ms, image_ms, text_ms)

    def _prompt_features(
        self, number: int, prompts: tuple[str, ...]
    ) -> tuple[Features, float | None]:
        # Whole lists are kept, not single prompts: int8 activations depend on their batch.
        key = (number, prompts)
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key], None
        features, elapsed = _timed(lambda: self.models[number].encode_text(prompts))
        self._prompts[key] = features
        if len(self._prompts) > PROMPT_SETS_KEPT * len(self.models):
            self._prompts.popitem(last=False)
        return features, elapsed

    def _index_batch(self, number: int) -> None:
        index = self._indexes[number]
        start, stop = index.done, min(index.done + INDEX_BATCH, len(self.gallery))
        began = time.perf_counter()
        rows, pictures = [], []
        for row in range(start, stop):
            try:
                pictures.append(self.gallery.picture(row))
            except DataError:
                continue
            rows.append(row)
        if rows:
            index.features[rows] = self.models[number].encode_image(pictures)
            index.readable[rows] = True
        index.seconds += time.perf_counter() - began
        index.done = stop

    def _search_one(self, number: int, query: str) -> tuple[np.ndarray, Features, float, float]:
        text, text_ms = _timed(lambda: self.models[number].encode_text([query]))
        began = time.perf_counter()
        scores = self._indexes[number].scores(text[0])
        order = np.argsort(-scores, kind="stable")
        return order, scores, text_ms, (time.perf_counter() - began) * 1e3


def parse_labels(labels: Sequence[str] | str) -> tuple[str, ...]:
    """Split at commas and line ends, drop blanks and repeats; raise DataError below two labels."""
    parts = labels.replace("\n", ",").split(",") if isinstance(labels, str) else labels
    names = tuple(dict.fromkeys(" ".join(part.split()) for part in parts if part.strip()))
    if not names:
        raise DataError("no labels: write two or more, separated by commas or line ends")
    if len(names) == 1:
        raise DataError(
            f"only one label ({names[0]}): it would always get 100 %, give at least two"
        )
    if len(names) > MAX_LABELS:
        raise DataError(f"{len(names)} labels are too many: at most {MAX_LABELS}")
    return tuple(check_text(name, "label") for name in names)


def fill_template(template: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Put each label where the template has ``{}``; raise DataError when it has none."""
    if "{}" not in template:
        raise DataError("the prompt template needs {} where the label goes")
    if len(template) > MAX_TEXT:
        raise DataError(f"the prompt template has {len(template)} characters: at most {MAX_TEXT}")
    return tuple(template.replace("{}", label).strip() for label in labels)


def check_text(text: str, what: str) -> str:
    """Return the text with single blanks; raise DataError when it is blank or too long."""
    clean = " ".join(text.split())
    if not clean:
        raise DataError(f"the {what} is blank: write a word or a short phrase")
    if len(clean) > MAX_TEXT:
        raise DataError(f"the {what} has {len(clean)} characters: at most {MAX_TEXT}")
    return clean


def _distinct_names(models: Sequence[Embedder]) -> tuple[str, ...]:
    """Names that tell the models apart: the precision is added where a name comes twice."""
    names: list[str] = []
    plain = [model.name for model in models]
    for model in models:
        name = f"{model.name} {model.spec.precision}" if plain.count(model.name) > 1 else model.name
        again = sum(known == name or known.startswith(f"{name} (") for known in names)
        names.append(f"{name} ({again + 1})" if again else name)
    return tuple(names)


def _fit(model: Embedder, picture: Image.Image) -> tuple[ImageInput, float | None]:
    """Resize and crop apart where the model shows how; encoding then finds nothing left to do."""
    pixels = getattr(getattr(model, "preprocess", None), "pixels", None)
    if pixels is None:
        return picture, None
    return _timed(lambda: pixels(picture))


def _timed(work: Callable[[], Value]) -> tuple[Value, float]:
    began = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - began) * 1e3
