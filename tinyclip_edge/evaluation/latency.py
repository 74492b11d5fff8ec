"""Latency from decoded image or text to embedding, for several models in interleaved rounds."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.protocol import Embedder, ImageInput

WARM_UP = 5


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per call."""

    median_ms: float
    min_ms: float
    p95_ms: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        """Summarise the times of single calls."""
        median, p95 = np.percentile(milliseconds, [50, 95])
        return cls(float(median), float(min(milliseconds)), float(p95))


@dataclass(frozen=True, slots=True)
class ModelLatency:
    """Latency of both encoders at one batch size, including preprocessing and tokenization."""

    image: Latency
    text: Latency
    batch: int
    threads: int
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def measure_latency(
    embedders: Mapping[str, Embedder],
    images: Sequence[ImageInput],
    texts: Sequence[str],
    *,
    threads: int = 1,
    rounds: int = 50,
) -> dict[str, ModelLatency]:
    """Time ``encode_image(images)`` and ``encode_text(texts)`` of every model.

    The number of images and texts is the batch size. Each round calls every model once, so that
    other load on the machine affects all models alike. Open onnxruntime models with the same
    ``threads``; PyTorch's number is set here and restored. Raises DataError for batches of
    different size.
    """
    if not images or len(images) != len(texts):
        raise DataError(
            f"latency: {len(images):,} images and {len(texts):,} texts do not form a batch"
        )
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, embedder in embedders.items():
        calls[name, "image"] = lambda encode=embedder.encode_image: encode(images)  # type: ignore[misc]
        calls[name, "text"] = lambda encode=embedder.encode_text: encode(texts)  # type: ignore[misc]
    with torch_threads(threads):
        times = _interleaved(calls, rounds)
    return {
        name: ModelLatency(
            image=Latency.of(times[name, "image"]),
            text=Latency.of(times[name, "text"]),
            batch=len(images),
            threads=threads,
            rounds=rounds,
        )
        for name in embedders
    }


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Set PyTorch's number of threads within the context, if PyTorch is loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def _interleaved(
    calls: Mapping[tuple[str, str], Callable[[], object]], rounds: int
) -> dict[tuple[str, str], list[float]]:
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    order = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for key in order:
                started = time.perf_counter()
                calls[key]()
                times[key].append((time.perf_counter() - started) * 1000)
            # The order rotates, so that no model always follows the slowest.
            order.append(order.pop(0))
    finally:
        if collecting:
            gc.enable()
    return times
