"""Size, cold start, latency, throughput and memory of models, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tinyclip_edge.child import ChildError, ChildTimeoutError, run_child
from tinyclip_edge.errors import ConfigError, ModelError
from tinyclip_edge.evaluation.latency import ModelLatency, measure_latency
from tinyclip_edge.evaluation.open import check_openable, is_bundle, names_of, open_on_device
from tinyclip_edge.evaluation.probe import timed_picture
from tinyclip_edge.evaluation.tables import megabytes, millions
from tinyclip_edge.notebook import NotebookReport, report_table
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.protocol import EmbedderSpec
from tinyclip_edge.units import counted, three_digits

if TYPE_CHECKING:
    from rich.table import Table

PROBE_TIMEOUT_S = 600
_CAPTIONS = ("a photo of a cat", "a red bicycle", "two people on a beach", "an open book")


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One model at one precision; memory and cold start are measured in a separate process."""

    label: str
    spec: EmbedderSpec
    latency: ModelLatency
    cold_start_ms: float  # process start to first text embedding
    images_per_second: float  # batch 32
    text_only_mb: float | None  # peak memory after the first text
    peak_mb: float | None  # peak memory with both towers
    device: str = "cpu"
    placement: Mapping[str, Any] = field(default_factory=dict)  # of a bundle's towers

    @property
    def megabytes(self) -> float:
        """Size of the model's files, in 10^6 bytes."""
        return self.spec.bytes_on_disk / 1e6


@dataclass(frozen=True, slots=True)
class BenchReport(NotebookReport):
    """All models, measured in the same run."""

    rows: tuple[BenchRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def table(self) -> Table:
        """Return a rich table."""
        return _rich_table(self)


def bench_models(
    models: Sequence[str],
    *,
    threads: int = 1,
    batch: int = 1,
    rounds: int = 50,
    device: str = "cpu",
    device_options: Mapping[str, str] | None = None,
) -> BenchReport:
    """Measure every MODEL in interleaved rounds, a bundle at each of its precisions.

    Images are decoded, 256 pixels square; texts are short captions. ``device`` and
    ``device_options`` are those of ``EdgeCLIP.load``; for PyTorch models ``device`` is auto, cpu or
    cuda, without options. Raises the error of a model that cannot be opened.
    """
    for model in models:  # before the first one imports torch
        check_openable(model)
    models_by_label = {
        f"{name} {precision}" if precision else name: (model, precision)
        for model, name in names_of(models).items()
        for precision in _precisions(model)
    }
    if not models_by_label:
        raise ModelError("nothing to measure: give at least one model")
    if device_options and not any(is_bundle(model) for model in models):
        raise ConfigError("device options are for bundles; PyTorch models have none")
    requests: dict[str, dict[str, Any]] = {
        label: {
            "model": model,
            "precision": precision,
            "threads": threads,
            "device": device,
            "device_options": dict(device_options or {}),
        }
        for label, (model, precision) in models_by_label.items()
    }
    embedders = {label: open_on_device(**request) for label, request in requests.items()}
    for label, embedder in embedders.items():
        if isinstance(embedder, EdgeCLIP):
            requests[label]["device"] = embedder.device.name  # the one that "auto" chose
    # Probes start once all models are open, because a model that cannot be opened ends the run.
    probes = {label: _probe(label, request) for label, request in requests.items()}
    image, texts = timed_picture(), [_CAPTIONS[i % len(_CAPTIONS)] for i in range(batch)]
    latency = measure_latency(embedders, [image] * batch, texts, threads=threads, rounds=rounds)
    return BenchReport(
        tuple(
            BenchRow(
                label=label,
                spec=embedder.spec,
                latency=latency[label],
                device=requests[label]["device"],
                placement=dict(embedder.placement) if isinstance(embedder, EdgeCLIP) else {},
                **probes[label],
            )
            for label, embedder in embedders.items()
        )
    )


def _precisions(model: str) -> list[str | None]:
    return [*Manifest.read(model).precisions()] if is_bundle(model) else [None]


def _probe(label: str, model: Mapping[str, Any]) -> dict[str, Any]:
    request = {**model, "started": time.time()}
    try:
        figures: dict[str, Any] = run_child(
            f"{__package__}.probe", json.dumps(request), timeout=PROBE_TIMEOUT_S
        )
    except ChildTimeoutError:
        raise ModelError(
            f"{label}: not measured within {PROBE_TIMEOUT_S} s; try a smaller model or more threads"
        ) from None
    except ChildError as error:
        raise ModelError(f"{label}: {error}") from None
    return figures


_BENCH_COLUMNS = (
    *("encoders", "MB", "image\nms", "text\nms"),
    *("images\n/s", "cold\nstart", "text\nMB", "peak\nMB"),
)
_BENCH_CAPTION = (
    "ms: median of interleaved calls (minimum and p95 with --json)",
    "cold start: process start to first text embedding; images/s: batch 32",
    "text MB, peak MB: resident memory after the first text, and with both towers",
)


def _rich_table(report: BenchReport) -> Table:
    """Return one row per model and precision."""
    latency = report.rows[0].latency
    places = [
        f"{row.label} {tower}: nodes {place}"
        for row in report.rows
        for tower, place in row.placement.items()
    ]
    table = report_table(
        f"batch {latency.batch}, {counted(latency.threads, 'thread')}, {latency.rounds} rounds",
        _BENCH_COLUMNS,
        (*_BENCH_CAPTION, *places),
    )
    for row in report.rows:
        image, text = row.latency.image, row.latency.text
        table.add_row(
            row.label,
            millions(row.spec.encoder_parameters),
            megabytes(row.spec.bytes_on_disk),
            three_digits(image.median_ms),
            three_digits(text.median_ms),
            three_digits(row.images_per_second),
            f"{three_digits(row.cold_start_ms / 1000)} s",
            _memory(row.text_only_mb),
            _memory(row.peak_mb),
        )
    return table


def _memory(count: float | None) -> str:
    return "–" if count is None else f"{count:,.0f}"
