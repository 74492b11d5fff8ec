"""Reports as rich tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from tinyclip_edge.evaluation.bench import BenchReport
from tinyclip_edge.evaluation.compare import Comparison, ComparisonRow
from tinyclip_edge.evaluation.report import RETRIEVAL, EvalReport, EvalRow

if TYPE_CHECKING:
    from collections.abc import Sequence

_BENCH_COLUMNS = (
    *("encoders", "MB", "image\nms", "text\nms"),
    *("images\n/s", "cold\nstart", "text\nMB", "peak\nMB"),
)
_BENCH_CAPTION = (
    "ms: median of interleaved calls (minimum and p95 with --json)",
    "cold start: process start to first text embedding; images/s: batch 32",
    "text MB, peak MB: resident memory after the first text, and with both towers",
)


def comparison_table(comparison: Comparison) -> Table:
    """Return one line a model; dimmed beside the figures, how they relate to the first model's."""
    first = comparison.rows[0]
    table = _table(
        "",
        ["encoders", "MB", "recall\n@1", "recall\n@5", "zero-\nshot", "image\nms", "text\nms"],
        _comparison_caption(comparison),
    )
    for row in comparison.rows:
        whole, whole_first = _parts(row), _parts(first)
        table.add_row(
            escape(row.label),
            _of(row, first, _millions(row.spec.encoder_parameters), _encoder_share(row, first)),
            f"{row.megabytes:.1f}",
            _of(row, first, _percent(whole[0]), _kept(whole[0], whole_first[0])),
            _percent(whole[1]),
            _percent(whole[2]),
            _of(
                row,
                first,
                f"{row.latency.image.median_ms:.2f}",
                _faster(first.latency.image.median_ms, row.latency.image.median_ms),
            ),
            f"{row.latency.text.median_ms:.2f}",
        )
    return table


def eval_table(report: EvalReport) -> Table:
    """Return one line a set or subset."""
    title = f"{report.model} · {report.spec.runtime} {report.spec.precision} · {report.data}"
    caption = ["± standard error", *report.notes]
    if report.task == RETRIEVAL:
        first = ("text→image\n@1", "@5", "@10")
        second = ("image→text\n@1", "@5", "@10")
        columns = ["pairs", *first, *second, "of 100"]
        table = _table(title, columns, caption)
        for row in report.rows:
            table.add_row(escape(row.name), *_retrieval_cells(row))
        return table
    table = _table(title, ["images", "classes", "top-1", "top-5"], caption)
    for row in report.rows:
        found = row.zero_shot
        assert found is not None
        table.add_row(
            escape(row.name),
            str(found.n),
            str(found.classes),
            _with_error(found.top1, found.stderr),
            _with_error(found.top5, found.top5_stderr),
        )
    return table


def bench_table(report: BenchReport) -> Table:
    """Return one line a model and precision."""
    latency = report.rows[0].latency
    table = _table(
        f"batch {latency.batch}, {_count(latency.threads, 'thread')}, {latency.rounds} rounds",
        _BENCH_COLUMNS,
        _BENCH_CAPTION,
    )
    for row in report.rows:
        image, text = row.latency.image, row.latency.text
        table.add_row(
            escape(row.label),
            _millions(row.spec.encoder_parameters),
            f"{row.megabytes:.1f}",
            f"{image.median_ms:.2f}",
            f"{text.median_ms:.2f}",
            f"{row.images_per_second:.0f}",
            f"{row.cold_start_ms / 1000:.2f} s",
            _memory(row.text_only_mb),
            _memory(row.peak_mb),
        )
    return table


def _table(title: str, columns: Sequence[str], caption: Sequence[str]) -> Table:
    table = Table(
        title=escape(title) or None,
        caption=escape("\n".join(caption)),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        header_style="bold",
    )
    table.add_column("", no_wrap=True, style="cyan")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _comparison_caption(comparison: Comparison) -> list[str]:
    found = comparison.rows[0].sets[0].retrieval
    latency = comparison.rows[0].latency
    assert found is not None
    error = max(
        row.sets[0].retrieval.t2i_stderr[1] for row in comparison.rows if row.sets[0].retrieval
    )
    return [
        f"{comparison.data}: {found.n} pairs, text→image recall (± {100 * error:.1f} points), "
        "zero-shot: image→text among 100",
        f"ms: median of {latency.rounds} interleaved calls, batch 1, "
        f"{_count(latency.threads, 'thread')}",
        *comparison.notes,
    ]


def _parts(row: ComparisonRow) -> tuple[float, float, float]:
    whole = row.sets[0]
    assert whole.retrieval is not None and whole.hundred_way is not None
    return whole.retrieval.t2i[1], whole.retrieval.t2i[5], whole.hundred_way.top1


def _of(row: ComparisonRow, first: ComparisonRow, figure: str, share: str) -> str:
    return figure if row is first else f"{figure} [dim]{share:>5}[/]"


def _encoder_share(row: ComparisonRow, first: ComparisonRow) -> str:
    return f"{row.spec.encoder_parameters / max(first.spec.encoder_parameters, 1):.0%}"


def _kept(value: float, reference: float) -> str:
    return f"{value / reference:.0%}" if reference else "–"


def _faster(reference_ms: float, ms: float) -> str:
    return f"{reference_ms / ms:.1f}x"


def _retrieval_cells(row: EvalRow) -> list[str]:
    found, among = row.retrieval, row.hundred_way
    assert found is not None and among is not None
    return [
        str(found.n),
        _with_error(found.t2i[1], found.t2i_stderr[1]),
        _percent(found.t2i[5]),
        _percent(found.t2i[10]),
        _with_error(found.i2t[1], found.i2t_stderr[1]),
        _percent(found.i2t[5]),
        _percent(found.i2t[10]),
        _percent(among.top1) if among.ways == 100 else "–",
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _with_error(share: float, error: float) -> str:
    return f"{100 * share:.1f} [dim]± {100 * error:.1f}[/]"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M"


def _memory(megabytes: float | None) -> str:
    return "–" if megabytes is None else f"{megabytes:.0f}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
