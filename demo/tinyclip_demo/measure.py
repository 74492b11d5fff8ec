"""Measure latency, size and accuracy of the selected models on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from tinyclip_demo.figures import FigureRow, MeasureReport, MeasureSettings
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.host import host_facts
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation.latency import WARM_UP, ModelLatency, measure_latency
from tinyclip_edge.evaluation.retrieve import retrieval_of_features
from tinyclip_edge.runtime.protocol import Embedder, Features, ImageInput

PAIRS = 400  # of the gallery, for accuracy
PICTURE_EDGE = 256  # pixels of the random image for latency
CAPTIONS = ("a photo of a cat", "a red bicycle", "two people on a beach", "an open book")
POLL_SECONDS = 0.15
ENCODE_BATCH = 32
CLOCK_SHARE = 0.6  # share of the progress bar for latency; the remainder is accuracy


@dataclass(frozen=True, slots=True)
class MeasureProgress:
    """Progress of a measurement as a share of 1, and the current activity."""

    share: float
    activity: str


def measure(
    registry: ModelRegistry,
    numbers: Sequence[int],
    settings: MeasureSettings,
    pairs: Gallery | None,
    lock: AbstractContextManager[object],
) -> Iterator[MeasureProgress | MeasureReport]:
    """Yield progress, then the report; the lock keeps other work from disturbing the timing.

    ``pairs`` are pictures with captions for accuracy, None to skip it. Closing the generator stops
    the measurement.
    """
    job = _Job(registry, numbers, settings, pairs, lock)
    thread = threading.Thread(target=job.work, name="measure", daemon=True)
    thread.start()
    try:
        while True:
            thread.join(POLL_SECONDS)
            yield job.step
            if not thread.is_alive():
                break
    finally:
        job.abandon()
    if job.error is not None:
        raise job.error
    assert job.report is not None
    yield job.report


class _AbandonedError(Exception):
    pass


class _CallCounter:
    """An Embedder that reports each of its calls."""

    def __init__(self, model: Embedder, count: Callable[[], None]) -> None:
        self._model, self._count = model, count
        self.name, self.spec, self.logit_scale = model.name, model.spec, model.logit_scale

    def encode_image(self, images: Sequence[ImageInput]) -> Features:
        """Return what the model returns."""
        self._count()
        return self._model.encode_image(images)

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Return what the model returns."""
        self._count()
        return self._model.encode_text(texts)


class _Job:
    """Measures in a thread of its own that holds the lock; the page polls ``step``."""

    def __init__(
        self,
        registry: ModelRegistry,
        numbers: Sequence[int],
        settings: MeasureSettings,
        pairs: Gallery | None,
        lock: AbstractContextManager[object],
    ) -> None:
        self.step, self._abandoned = MeasureProgress(0.0, "waiting for its turn"), False
        self.report: MeasureReport | None = None
        self.error: Exception | None = None
        self._slots = {
            registry.names[number]: (number, registry.slots[number]) for number in numbers
        }
        self._settings, self._pairs, self._lock = settings, pairs, lock
        self._share = CLOCK_SHARE if pairs else 1.0
        self._calls, self._total = 0, 2 * len(self._slots) * (WARM_UP + settings.rounds)

    def work(self) -> None:
        """Measure, then set ``report`` or ``error``."""
        try:
            with self._lock:
                self.report = self._measured()
        # Raised again in the page's thread.
        except Exception as error:
            self.error = error

    def abandon(self) -> None:
        """Stop at the next call of a model."""
        self._abandoned = True

    def _measured(self) -> MeasureReport:
        self._report_progress(0.0, "opening the models")
        threads = self._settings.threads
        models = {name: slot.reopen(threads) for name, (_, slot) in self._slots.items()}
        latency = self._latency(models)
        recalls = self._recalls(models) if self._pairs else [(None, None)] * len(models)
        rows = tuple(
            FigureRow(self._slots[name][0], name, model.spec, latency[name], *recall)
            for (name, model), recall in zip(models.items(), recalls, strict=True)
        )
        pairs = self._pairs
        pairs_description = f"{len(_sample(pairs)):,} pairs of {pairs.name}" if pairs else ""
        created = time.strftime("%Y-%m-%d %H:%M:%S")
        return MeasureReport(rows, self._settings, host_facts(), created, pairs_description)

    def _latency(self, models: Mapping[str, Embedder]) -> dict[str, ModelLatency]:
        edge = (PICTURE_EDGE, PICTURE_EDGE, 3)
        picture = np.random.default_rng(0).integers(0, 256, edge, dtype=np.uint8)
        batch = self._settings.batch
        return measure_latency(
            {name: _CallCounter(model, self._count) for name, model in models.items()},
            [picture] * batch,
            [CAPTIONS[i % len(CAPTIONS)] for i in range(batch)],
            threads=self._settings.threads,
            rounds=self._settings.rounds,
        )

    def _recalls(self, models: Mapping[str, Embedder]) -> list[tuple[float, float]]:
        assert self._pairs is not None
        recalls = []
        for index, (name, model) in enumerate(models.items()):
            recall = _Recall(self._pairs)
            for share in recall.encode(model):
                self._report_progress(
                    self._share + (1 - self._share) * (index + share) / len(models),
                    f"accuracy of {name}",
                )
            recalls.append(recall.shares())
        return recalls

    def _count(self) -> None:
        self._calls += 1
        self._report_progress(self._share * self._calls / self._total, "timing in turns")

    def _report_progress(self, share: float, activity: str) -> None:
        if self._abandoned:
            raise _AbandonedError
        self.step = MeasureProgress(min(share, 1.0), activity)


class _Recall:
    """Recall of one model on pairs evenly spaced over a gallery."""

    def __init__(self, pairs: Gallery) -> None:
        self._pairs = pairs
        self._image: list[Features] = []
        self._text: list[Features] = []

    def encode(self, model: Embedder) -> Iterator[float]:
        """Encode pictures and captions; yield the progress as a share of 1."""
        rows = _sample(self._pairs)
        for start in range(0, len(rows), ENCODE_BATCH):
            pictures, captions = _readable(self._pairs, rows[start : start + ENCODE_BATCH])
            if pictures:
                self._image.append(model.encode_image(pictures))
                self._text.append(model.encode_text(captions))
            yield min(1.0, (start + ENCODE_BATCH) / len(rows))

    def shares(self) -> tuple[float, float]:
        """Return recall@1 and recall@5 from text to image; DataError when no picture decodes."""
        if not self._image:
            raise DataError(f"gallery {self._pairs.name} has no picture that decodes")
        retrieval = retrieval_of_features(np.concatenate(self._image), np.concatenate(self._text))
        return retrieval.t2i[1], retrieval.t2i[5]


def _readable(pairs: Gallery, rows: Sequence[int]) -> tuple[list[ImageInput], list[str]]:
    pictures: list[ImageInput] = []
    captions = []
    for row in rows:
        try:
            pictures.append(pairs.picture(row))
        except DataError:
            continue
        captions.append(pairs.captions[row])
    return pictures, captions


def _sample(pairs: Gallery) -> list[int]:
    """Return at most PAIRS evenly spaced rows."""
    rows = np.linspace(0, len(pairs) - 1, num=min(len(pairs), PAIRS))
    indices: list[int] = rows.round().astype(int).tolist()
    return indices
