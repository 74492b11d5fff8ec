"""Sensitivity of a bundle's layers to quantization, and the gain from leaving some in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinyclip_edge.report.bundles import Bundle
from tinyclip_edge.report.compared import format_drop
from tinyclip_edge.report.drawing import SERIES, number
from tinyclip_edge.report.html import Safe, element, folded, section, table
from tinyclip_edge.report.scatter import Spot, scatter
from tinyclip_edge.report.words import NONE, count, figures, megabytes

MAX_BARS = 12
MAX_ROWS = 200
MEASURES = {"overlap": "same of nearest ten, %", "kl": "KL, nats", "recall": "R@1, %"}
DROP_LABEL = "text to image R@1 lost, points"
# Units of the bars' own coordinates.
NAMES, BAR_WIDTH, NUMBER, ROW, BAR = 204, 150, 50, 15, 10
MAX_LETTERS = 40  # letters of a name beside a bar; the table has all of it

Row = Mapping[str, Any]


def sensitivity(bundles: Sequence[Bundle]) -> Safe | None:
    """Return the layer searches of the bundles' exports; None when there was none."""
    parts: list[Safe] = []
    measured = [(bundle, search) for bundle in bundles for search in _searches(bundle)]
    for index, (bundle, search) in enumerate(measured):
        precision = str(search.get("precision", "int8"))
        if len(measured) > 1:
            parts.append(element("h3", f"{bundle.name} {precision}"))
        parts += _search_parts(search, precision, f"layers{index}")
    return section("layers", "Layers under quantization", *parts) if parts else None


def _searches(bundle: Bundle) -> Iterator[Row]:
    """Return the layer searches of a bundle's precisions that are not empty."""
    verification = bundle.verification
    further = verification.get("more_sensitivity")
    for search in (
        verification.get("sensitivity"),
        *(further if isinstance(further, list) else []),
    ):
        if isinstance(search, Mapping) and (_rows(search, "layers") or _rows(search, "pareto")):
            yield search


def _rows(search: Row, key: str) -> list[Row]:
    rows = search.get(key)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _search_parts(search: Row, precision: str, key: str) -> Iterator[Safe]:
    layers, points = _rows(search, "layers"), _rows(search, "pareto")
    figures = [*_bars(layers, precision, key), *_pareto(points, key)]
    if figures:
        yield element("div", *figures, class_="figures")
    if points:
        yield _pareto_table(points, count(search.get("pairs")))
    if layers:
        yield folded("Every layer in numbers", _layers(layers, precision))


def _bars(layers: Sequence[Row], precision: str, key: str) -> Iterator[Safe]:
    """Draw the KL of the most sensitive layers."""
    ranked = [(row, value) for row in layers if (value := number(row.get("kl"))) is not None]
    ranked = ranked[:MAX_BARS]
    if not ranked:
        return
    longest = max((value for _, value in ranked), default=0.0) or 1.0
    parts = []
    for index, (row, value) in enumerate(ranked):
        y = index * ROW
        width = BAR_WIDTH * max(value, 0.0) / longest
        parts += [
            element("text", _shortened(_name(row)), x=0, y=y + BAR - 1),
            element("rect", x=NAMES, y=y, width=BAR_WIDTH, height=BAR, class_="track"),
            element("rect", x=NAMES, y=y, width=f"{width:.1f}", height=BAR, class_="took"),
            element("text", figures(value), x=NAMES + BAR_WIDTH + 6, y=y + BAR - 1),
        ]
    title = f"KL with a single layer in {precision}, worst first"
    drawing = element(
        "svg",
        element("title", title, id=f"{key}-title"),
        *parts,
        class_="map",
        viewBox=f"0 0 {NAMES + BAR_WIDTH + NUMBER} {len(ranked) * ROW}",
        role="img",
        aria_labelledby=f"{key}-title",
    )
    caption = (
        f"Nats, {len(ranked):,} of {len(layers):,} layers, ordered by changed neighbours and KL; "
        "leave the first ones in float."
    )
    yield element("figure", drawing, element("figcaption", element("b", title), caption))


def _pareto(points: Sequence[Row], key: str) -> Iterator[Safe]:
    selected = next((row for row in points if row.get("chosen") is True), None)
    caption = "Numbers: layers left in float. Up and to the left is better."
    if selected is not None:
        caption += f" Chosen, the large point: {_point_name(selected, points)}."
    for column, factor, label, name in (
        ("bytes", 1e-6, "both towers, MB", "bytes"),
        ("ms", 1.0, "one picture and one text, ms", "latency"),
    ):
        spots = list(_spots(points, column, factor))
        if spots:
            yield scatter(f"{key}-{column}", f"Accuracy lost against {name}", spots,
                          (label, DROP_LABEL), lower=True, caption=caption)  # fmt: skip


def _spots(points: Sequence[Row], column: str, factor: float) -> Iterator[Spot]:
    for row in points:
        x, drop = (number(row.get(key)) for key in (column, "drop"))
        if x is None or drop is None:
            continue
        selected = row.get("chosen") is True
        yield Spot(_point_name(row, points), factor * x, drop, number(row.get("stderr")) or 0.0,
                   SERIES[1 if selected else 0], selected)  # fmt: skip


def _pareto_table(points: Sequence[Row], pairs: str) -> Safe:
    rows = [
        [
            f"{_point_name(row, points)}{', chosen' if row.get('chosen') is True else ''}",
            _smoothing(row.get("smooth")),
            megabytes(row.get("bytes")),
            figures(row.get("ms")),
            format_drop(number(row.get("drop")), number(row.get("stderr"))),
            figures(row.get("overlap")),
            figures(row.get("kl")),
        ]
        for row in points
    ]
    head = ["layers in float", "smoothing", "MB", "ms", "points lost", "same of nearest ten, %",
            "KL, nats"]  # fmt: skip
    caption = f"Gain from leaving the most sensitive layers in float, on {pairs} calibration pairs"
    return table(head, rows, caption)


def _point_name(row: Row, points: Sequence[Row]) -> str:
    """Name a point by its layers in float; "plain" if a smoothed one has as many."""
    float_layers = number(row.get("kept_float"))
    duplicates = sum(number(point.get("kept_float")) == float_layers for point in points)
    if row is points[0] and duplicates > 1:
        return "plain"
    return "?" if float_layers is None else f"{float_layers:.0f}"


def _smoothing(strengths: object) -> str:
    if not isinstance(strengths, Mapping) or not any(map(number, strengths.values())):
        return NONE
    return ", ".join(f"{tower} {figures(value)}" for tower, value in strengths.items())


def _layers(layers: Sequence[Row], precision: str) -> Safe:
    columns = [key for key in MEASURES if any(number(row.get(key)) is not None for row in layers)]
    rows = [[_name(row), *(figures(row.get(key)) for key in columns)] for row in layers[:MAX_ROWS]]
    caption = f"Each single layer in {precision}, worst first"
    if len(layers) > MAX_ROWS:
        caption += f"; {MAX_ROWS} of {len(layers)}"
    return table(["layer", *(MEASURES[key] for key in columns)], rows, caption)


def _name(row: Row) -> str:
    return f"{row.get('tower', '?')} {row.get('node', '?')}"


def _shortened(name: str) -> str:
    """Shorten a name in the middle: its end is what distinguishes layers."""
    tower, _, node = name.partition(" ")
    room = MAX_LETTERS - len(tower) - 2
    return name if len(node) <= room + 1 else f"{tower} …{node[-room:]}"
