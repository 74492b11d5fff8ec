"""A measurement as HTML: a headline, a plot of accuracy, latency and size, a table, the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tinyclip_demo.figures import FigureRow, MeasureReport
from tinyclip_demo.view.parts import RUNTIMES, figure_table, hue, megabytes, milliseconds

TICKS = (1, 2, 3, 5, 7)
MAX_LEVELS = 5
LARGEST_BUBBLE = 64  # pixels
SMALLEST_BUBBLE = 10


def measurement(report: MeasureReport) -> str:
    """Return headline, plot, table and notes of a measurement."""
    return (
        f'<section class="tc-result">{_headline(report.rows)}{_plot(report.rows)}'
        f"{_table(report)}{_notes(report)}</section>"
    )


def host_line(host: dict[str, str]) -> str:
    """Return the facts about the machine as a list."""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in host.items())
    return f'<dl class="tc-host" aria-label="This machine">{items}</dl>'


def _headline(rows: Sequence[FigureRow]) -> str:
    if len(rows) < 2:
        return ""
    first, best = rows[0], min(rows[1:], key=lambda row: row.latency.image.median_ms)
    faster = first.latency.image.median_ms / best.latency.image.median_ms
    comparisons = [_times(faster, "faster", "slower")]
    if first.spec.bytes_on_disk and best.spec.bytes_on_disk:
        comparisons.append(
            _times(first.spec.bytes_on_disk / best.spec.bytes_on_disk, "smaller", "larger")
        )
    recall_text = ""
    if first.recall_at_1 and best.recall_at_1 is not None:
        recall_text = (
            f", and keeps <b>{best.recall_at_1 / first.recall_at_1:.0%}</b> of its recall@1"
        )
    kind = "agree" if faster > 1 else "differ"
    return (
        f'<p class="tc-verdict {kind}" role="status"><span><b>{escape(best.name)}</b> is '
        f"{' and '.join(comparisons)} than {escape(first.name)}{recall_text}</span></p>"
    )


def _times(ratio: float, above: str, below: str) -> str:
    return f"<b>{ratio:.1f}×</b> {above}" if ratio >= 1 else f"<b>{1 / ratio:.1f}×</b> {below}"


def _plot(rows: Sequence[FigureRow]) -> str:
    """Return a plot in HTML, whose text stays readable: latency, accuracy, and size as area."""
    accuracy = all(row.recall_at_1 is not None for row in rows)
    times = [row.latency.image.median_ms for row in rows]
    heights = [_height(row, accuracy) for row in rows]
    low, high = min(times) / 1.6, max(times) * 1.6
    floor, top = _span(heights)
    largest = max(row.spec.bytes_on_disk for row in rows) or 1
    dots = "".join(
        _dot(row, _log_share(ms, low, high), (y - floor) / (top - floor), largest)
        for row, ms, y in zip(rows, times, heights, strict=True)
    )
    ticks = "".join(
        f'<i style="left:{_log_share(value, low, high):.1%}">{value:g}</i>'
        for value in _ticks(low, high)
    )
    levels = "".join(
        f'<i style="bottom:{(value - floor) / (top - floor):.1%}">{value:g}{" %" * accuracy}</i>'
        for value in _levels(floor, top)
    )
    batch = rows[0].latency.batch
    images = "an image" if batch == 1 else f"{batch} images"
    side = "Recall@1, text → image" if accuracy else "Megabytes on disk"
    description = "; ".join(_description(row) for row in rows)
    return (
        f'<figure class="tc-plot" role="img" aria-label="{escape(description)}"><p>{side}</p>'
        f'<div class="tc-area">{levels}{dots}</div><div class="tc-axis">{ticks}</div>'
        f"<figcaption>Milliseconds for {images}, median → &nbsp; area of a dot: size on disk"
        "</figcaption></figure>"
    )


def _dot(row: FigureRow, x: float, y: float, largest: int) -> str:
    edge = max(SMALLEST_BUBBLE, LARGEST_BUBBLE * math.sqrt(row.spec.bytes_on_disk / largest))
    side = " left" if x > 0.6 else ""
    return (
        f'<div class="tc-bubble{side}" {hue(row.number)[:-1]};left:{x:.1%};bottom:{y:.1%};'
        f'--d:{edge:.0f}px"><b></b><span>{escape(row.name)}<small>'
        f"{milliseconds(row.latency.image.median_ms)} · {megabytes(row.spec.bytes_on_disk)}"
        "</small></span></div>"
    )


def _description(row: FigureRow) -> str:
    recall = "" if row.recall_at_1 is None else f", recall@1 {row.recall_at_1:.1%}"
    ms = row.latency.image.median_ms
    return f"{row.name}: {ms:.1f} ms, {row.spec.bytes_on_disk / 1e6:.1f} MB{recall}"


def _height(row: FigureRow, accuracy: bool) -> float:
    if accuracy and row.recall_at_1 is not None:
        return row.recall_at_1 * 100
    return row.spec.bytes_on_disk / 1e6


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max((high - low) * 0.45, high * 0.08, 1.0)
    return max(0.0, low - room), high + room


def _levels(floor: float, top: float) -> list[float]:
    decade = 10 ** (math.floor(math.log10(top - floor)) - 1)
    step = next(
        t * decade for t in (1, 2, 5, 10, 20, 50) if (top - floor) / (t * decade) <= MAX_LEVELS
    )
    first = math.ceil(floor / step) * step
    return [first + i * step for i in range(12) if first + i * step <= top]


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [t * 10**d for d in decades for t in TICKS if low <= t * 10**d <= high]


def _log_share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _table(report: MeasureReport) -> str:
    first, batch = report.rows[0], report.settings.batch
    recall = any(row.recall_at_1 is not None for row in report.rows)
    heads = ["Model", "On disk", f"Image × {batch}", "p95", f"Text × {batch}", "Images/s"]
    heads += ["R@1", "R@5"] if recall else []
    rows = [_line(row, first, recall) for row in report.rows]
    return figure_table("Measured figures", heads, rows)


def _line(row: FigureRow, first: FigureRow, recall: bool) -> tuple[str, str, list[str]]:
    image, text = row.latency.image, row.latency.text
    cells = [
        megabytes(row.spec.bytes_on_disk),
        milliseconds(image.median_ms)
        + _faster(first.latency.image.median_ms / image.median_ms, row is first),
        milliseconds(image.p95_ms),
        milliseconds(text.median_ms)
        + _faster(first.latency.text.median_ms / text.median_ms, row is first),
        f"{row.images_per_second:,.0f}",
    ]
    recalls = (row.recall_at_1, row.recall_at_5) if recall else ()
    cells += ["…" if share is None else f"{share:.1%}" for share in recalls]
    runtime = f"{RUNTIMES.get(row.spec.runtime, row.spec.runtime)} {row.spec.precision}"
    head = f'<span class="tc-dot">{escape(row.name)}</span><small>{escape(runtime)}</small>'
    return hue(row.number), head, cells


def _faster(ratio: float, itself: bool) -> str:
    return "" if itself else f" <small>{ratio:.1f}×</small>"


def _notes(report: MeasureReport) -> str:
    settings = report.settings
    threads = f"{settings.threads} thread{'' if settings.threads == 1 else 's'}"
    notes = [
        f"{settings.rounds} interleaved rounds, {threads}, from a decoded picture of 256 pixels "
        f"to its embedding, measured {report.created}"
    ]
    if report.pairs:
        notes.append(f"recall from text to image among {report.pairs}")
    note_html = "".join(f"<span>{escape(note)}</span>" for note in notes)
    return f'<p class="tc-legend">{note_html}</p>'
