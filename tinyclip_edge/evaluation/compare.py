"""Accuracy, size and latency of teacher, student and int8 bundle in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation.latency import ModelLatency, measure_latency
from tinyclip_edge.evaluation.open import is_bundle, open_embedder
from tinyclip_edge.evaluation.report import EvalReport, EvalRow, evaluate_model
from tinyclip_edge.evaluation.sets import evaluation_set
from tinyclip_edge.evaluation.tables import dimmed_end, megabytes, millions, percent
from tinyclip_edge.notebook import NotebookReport, report_table
from tinyclip_edge.runtime.images import open_image
from tinyclip_edge.runtime.protocol import Embedder, EmbedderSpec
from tinyclip_edge.units import counted, three_digits

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

DATA = "starter:test_style"
THREADS = 1
ROUNDS = 40


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One model; ``sets`` starts with the whole evaluation set, followed by its subsets."""

    label: str
    model: str
    spec: EmbedderSpec
    sets: tuple[EvalRow, ...]
    latency: ModelLatency

    @property
    def megabytes(self) -> float:
        """Size of the model's files, in 10^6 bytes."""
        return self.spec.bytes_on_disk / 1e6


@dataclass(frozen=True, slots=True)
class Comparison(NotebookReport):
    """Models side by side; the first is the reference for the others."""

    rows: tuple[ComparisonRow, ...]
    data: str
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the table's figures of each model, and all details."""
        return {
            "data": self.data,
            "rows": [{**_figures(row), "details": asdict(row)} for row in self.rows],
            "notes": list(self.notes),
        }

    def table(self) -> Table:
        """Return a rich table."""
        return _rich_table(self)


def compare_models(
    models: Mapping[str, tuple[str, str | None]],
    *,
    data: str = DATA,
    limit: int | None = None,
    threads: int = THREADS,
    rounds: int = ROUNDS,
    notes: Sequence[str] = (),
) -> Comparison:
    """Measure retrieval and batch-1 latency of label -> (MODEL, precision); the first is reference.

    All models are in memory together, so that latency can be measured in interleaved rounds. Raises
    DataError without models.
    """
    if not models:
        raise DataError("nothing to compare: give at least one model")
    embedders: dict[str, Embedder] = {
        label: open_embedder(
            model, precision=precision, threads=threads if is_bundle(model) else None
        )
        for label, (model, precision) in models.items()
    }
    return compare_embedders(
        embedders, data=data, limit=limit, threads=threads, rounds=rounds, notes=notes
    )


def compare_embedders(
    embedders: Mapping[str, Embedder],
    *,
    data: str = DATA,
    limit: int | None = None,
    threads: int = THREADS,
    rounds: int = ROUNDS,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare models that are already open; open onnxruntime ones with the same ``threads``."""
    reports: dict[str, EvalReport] = {
        label: evaluate_model(embedder, data=data, limit=limit, companions=False)
        for label, embedder in embedders.items()
    }
    first = evaluation_set(data, limit=1)
    image = open_image(first.images[0])
    latency = measure_latency(embedders, [image], first.texts[:1], threads=threads, rounds=rounds)
    rows = tuple(
        ComparisonRow(label, embedder.name, embedder.spec, reports[label].rows, latency[label])
        for label, embedder in embedders.items()
    )
    return Comparison(rows, data, (*next(iter(reports.values())).notes, *notes))


def _figures(row: ComparisonRow) -> dict[str, Any]:
    evaluation = row.sets[0]
    assert evaluation.retrieval is not None and evaluation.hundred_way is not None
    return {
        "label": row.label,
        "encoder_parameters": row.spec.encoder_parameters,
        "megabytes": round(row.megabytes, 3),
        "recall_at_1": evaluation.retrieval.t2i[1],
        "recall_at_1_stderr": evaluation.retrieval.t2i_stderr[1],
        "recall_at_5": evaluation.retrieval.t2i[5],
        "recall_at_1_both": evaluation.retrieval.mean(1),
        "zero_shot_100_way": evaluation.hundred_way.top1,
        "image_ms": row.latency.image.median_ms,
        "text_ms": row.latency.text.median_ms,
    }


def _rich_table(comparison: Comparison) -> Table:
    """Return one row per model; dimmed figures are relative to the first model's."""
    reference = comparison.rows[0]
    table = report_table(
        "",
        ["encoders", "MB", "recall\n@1", "recall\n@5", "zero-\nshot", "image\nms", "text\nms"],
        _comparison_caption(comparison),
    )
    for row in comparison.rows:
        accuracies, reference_accuracies = _accuracies(row), _accuracies(reference)
        table.add_row(
            row.label,
            _with_share(
                row,
                reference,
                millions(row.spec.encoder_parameters),
                _encoder_share(row, reference),
            ),
            megabytes(row.spec.bytes_on_disk),
            _with_share(
                row,
                reference,
                percent(accuracies[0]),
                _relative(accuracies[0], reference_accuracies[0]),
            ),
            percent(accuracies[1]),
            percent(accuracies[2]),
            _with_share(
                row,
                reference,
                three_digits(row.latency.image.median_ms),
                _faster(reference.latency.image.median_ms, row.latency.image.median_ms),
            ),
            three_digits(row.latency.text.median_ms),
        )
    return table


def _comparison_caption(comparison: Comparison) -> list[str]:
    retrieval = comparison.rows[0].sets[0].retrieval
    latency = comparison.rows[0].latency
    assert retrieval is not None
    error = max(
        row.sets[0].retrieval.t2i_stderr[1] for row in comparison.rows if row.sets[0].retrieval
    )
    return [
        f"{comparison.data}: {retrieval.n:,} pairs, text→image recall "
        f"(± {100 * error:.1f} points), zero-shot: image→text among 100",
        f"ms: median of {latency.rounds} interleaved calls, batch 1, "
        f"{counted(latency.threads, 'thread')}",
        *comparison.notes,
    ]


def _accuracies(row: ComparisonRow) -> tuple[float, float, float]:
    evaluation = row.sets[0]
    assert evaluation.retrieval is not None and evaluation.hundred_way is not None
    return evaluation.retrieval.t2i[1], evaluation.retrieval.t2i[5], evaluation.hundred_way.top1


def _with_share(row: ComparisonRow, first: ComparisonRow, figure: str, share: str) -> str | Text:
    return figure if row is first else dimmed_end(figure, f"{share:>4}")


def _encoder_share(row: ComparisonRow, first: ComparisonRow) -> str:
    return f"{row.spec.encoder_parameters / max(first.spec.encoder_parameters, 1):.0%}"


def _relative(value: float, reference: float) -> str:
    return f"{value / reference:.0%}" if reference else "–"


def _faster(reference_ms: float, ms: float) -> str:
    return f"{reference_ms / ms:.1f}x"
