"""Results of a measurement, for the page and as files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.evaluation.latency import ModelLatency
from tinyclip_edge.runtime.cpu import core_count
from tinyclip_edge.runtime.protocol import EmbedderSpec

BATCHES = (1, 4, 8, 16, 32)
ROUNDS = (10, 20, 50)


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """Settings of a measurement; raises ConfigError for values outside the lists."""

    threads: int = 1
    batch: int = 1
    rounds: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= core_count():
            raise ConfigError(f"{self.threads} threads: choose 1 to {core_count()} (all cores)")
        if self.batch not in BATCHES or self.rounds not in ROUNDS:
            raise ConfigError(f"batch {self.batch}, rounds {self.rounds}: choose from the lists")


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One model's figures; recall is text to image, as shares."""

    number: int  # of the model on the page
    name: str
    spec: EmbedderSpec
    latency: ModelLatency
    recall_at_1: float | None = None
    recall_at_5: float | None = None

    @property
    def images_per_second(self) -> float:
        """Throughput of the image encoder at the measured batch size."""
        return self.latency.batch / self.latency.image.median_ms * 1e3


@dataclass(frozen=True, slots=True)
class MeasureReport:
    """All models, measured in the same run."""

    rows: tuple[FigureRow, ...]
    settings: MeasureSettings
    host: dict[str, str]
    created: str  # local time
    pairs: str  # description of the pairs for accuracy, empty if not measured

    def as_json(self) -> str:
        """Return the report as text for a file."""
        content = {
            "created": self.created,
            "host": self.host,
            "settings": {
                "threads": self.settings.threads,
                "batch": self.settings.batch,
                "rounds": self.settings.rounds,
            },
            "accuracy_on": self.pairs or None,
            "models": [_flat(row) for row in self.rows],
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def as_csv(self) -> str:
        """Return a header line and one line per model."""
        lines = [{**_flat(row), "threads": self.settings.threads} for row in self.rows]
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
        return out.getvalue()


def _flat(row: FigureRow) -> dict[str, Any]:
    image, text = row.latency.image, row.latency.text
    return {
        "model": row.name,
        "runtime": row.spec.runtime,
        "precision": row.spec.precision,
        "image_size": row.spec.image_size,
        "encoder_parameters": row.spec.encoder_parameters,
        "bytes_on_disk": row.spec.bytes_on_disk,
        "batch": row.latency.batch,
        "image_median_ms": round(image.median_ms, 4),
        "image_min_ms": round(image.min_ms, 4),
        "image_p95_ms": round(image.p95_ms, 4),
        "text_median_ms": round(text.median_ms, 4),
        "text_p95_ms": round(text.p95_ms, 4),
        "images_per_second": round(row.images_per_second, 2),
        "recall_at_1": row.recall_at_1,
        "recall_at_5": row.recall_at_5,
    }
