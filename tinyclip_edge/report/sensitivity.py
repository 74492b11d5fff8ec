"""Which layers a quantized bundle suffers from, and what leaving some of them in float buys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinyclip_edge.report.bundles import Bundle
from tinyclip_edge.report.compared import lost
from tinyclip_edge.report.drawing import SERIES, number
from tinyclip_edge.report.html import Safe, element, folded, section, table
from tinyclip_edge.report.scatter import Spot, scatter
from tinyclip_edge.report.words import NONE, count, figures, megabytes

MOST_BARS = 12
MOST_ROWS = 200
MEASURES = {"overlap": "nearest ten kept, %", "kl": "KL, nats", "recall": "R@1, %"}
LOST = "text to image R@1 lost, points"
# Units of the bars' own coordinates.
NAMES, LONG, NUMBER, ROW, BAR = 204, 150, 50, 15, 10
LONGEST = 40  # letters of a name beside a bar; the table has all of it

Row = Mapping[str, Any]


def sensitivity(bundles: Sequence[Bundle]) -> Safe | None:
    """Return what exports measured of their layers; None where none did."""
    parts: list[Safe] = []
    measured = [(bundle, found) for bundle in bundles for found in _searches(bundle)]
    for place, (bundle, found) in enumerate(measured):
        precision = str(found.get("precision", "int8"))
        if len(measured) > 1:
            parts.append(element("h3", f"{bundle.folder.name} {precision}"))
        parts += _one(found, precision, f"layers{place}")
    return section("layers", "Layers under quantization", *parts) if parts else None


def _searches(bundle: Bundle) -> Iterator[Row]:
    """Give the searches of a bundle's precisions that hold anything."""
    seen = bundle.verification
    more = seen.get("more_sensitivity")
    for found in (seen.get("sensitivity"), *(more if isinstance(more, list) else [])):
        if isinstance(found, Mapping) and (_rows(found, "layers") or _rows(found, "pareto")):
            yield found


def _rows(found: Row, key: str) -> list[Row]:
    rows = found.get(key)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _one(found: Row, precision: str, key: str) -> Iterator[Safe]:
    layers, ways = _rows(found, "layers"), _rows(found, "pareto")
    drawn = [*_bars(layers, precision, key), *_pareto(ways, key)]
    if drawn:
        yield element("div", *drawn, class_="figures")
    if ways:
        yield _ways(ways, count(found.get("pairs")))
    if layers:
        yield folded("Every layer in numbers", _layers(layers, precision))


def _bars(layers: Sequence[Row], precision: str, key: str) -> Iterator[Safe]:
    """Draw the KL of the worst layers, which grows with what is lost."""
    worst = [(row, value) for row in layers if (value := number(row.get("kl"))) is not None]
    worst = worst[:MOST_BARS]
    if not worst:
        return
    longest = max((value for _, value in worst), default=0.0) or 1.0
    parts = []
    for place, (row, value) in enumerate(worst):
        y = place * ROW
        width = LONG * max(value, 0.0) / longest
        parts += [
            element("text", _shortened(_name(row)), x=0, y=y + BAR - 1),
            element("rect", x=NAMES, y=y, width=LONG, height=BAR, class_="track"),
            element("rect", x=NAMES, y=y, width=f"{width:.1f}", height=BAR, class_="took"),
            element("text", figures(value), x=NAMES + LONG + 6, y=y + BAR - 1),
        ]
    title = f"KL with one layer alone in {precision}, worst first"
    drawing = element(
        "svg",
        element("title", title, id=f"{key}-title"),
        *parts,
        class_="map",
        viewBox=f"0 0 {NAMES + LONG + NUMBER} {len(worst) * ROW}",
        role="img",
        aria_labelledby=f"{key}-title",
    )
    told = (
        f"Nats, {len(worst)} of {len(layers)} layers. Order: by the neighbours lost and the KL; "
        "the first are those to leave in float."
    )
    yield element("figure", drawing, element("figcaption", element("b", title), told))


def _pareto(ways: Sequence[Row], key: str) -> Iterator[Safe]:
    chosen = next((row for row in ways if row.get("chosen") is True), None)
    told = "A number: layers left in float. Up and to the left is better."
    if chosen is not None:
        told += f" Chosen, the large point: {_kept(chosen, ways)}."
    for of, factor, label, name in (
        ("bytes", 1e-6, "both towers, MB", "bytes"),
        ("ms", 1.0, "one picture and one text, ms", "latency"),
    ):
        spots = list(_spots(ways, of, factor))
        if spots:
            yield scatter(f"{key}-{of}", f"Accuracy lost against {name}", spots, (label, LOST),
                          lower=True, caption=told)  # fmt: skip


def _spots(ways: Sequence[Row], of: str, factor: float) -> Iterator[Spot]:
    for row in ways:
        x, drop = (number(row.get(key)) for key in (of, "drop"))
        if x is None or drop is None:
            continue
        chosen = row.get("chosen") is True
        yield Spot(_kept(row, ways), factor * x, drop, number(row.get("stderr")) or 0.0,
                   SERIES[1 if chosen else 0], chosen)  # fmt: skip


def _ways(ways: Sequence[Row], pairs: str) -> Safe:
    rows = [
        [
            f"{_kept(row, ways)}{', chosen' if row.get('chosen') is True else ''}",
            _smoothing(row.get("smooth")),
            megabytes(row.get("bytes")),
            figures(row.get("ms")),
            lost(number(row.get("drop")), number(row.get("stderr"))),
            figures(row.get("overlap")),
            figures(row.get("kl")),
        ]
        for row in ways
    ]
    head = ["layers in float", "smoothing", "MB", "ms", "points lost", "nearest ten kept, %",
            "KL, nats"]  # fmt: skip
    told = f"What leaving the worst layers in float buys, on {pairs} calibration pairs"
    return table(head, rows, told)


def _kept(row: Row, ways: Sequence[Row]) -> str:
    """Name a way by its layers in float; the first may have a second beside it that is smoothed."""
    kept = number(row.get("kept_float"))
    same = sum(number(other.get("kept_float")) == kept for other in ways)
    if row is ways[0] and same > 1:
        return "plain"
    return "?" if kept is None else f"{kept:.0f}"


def _smoothing(strengths: object) -> str:
    if not isinstance(strengths, Mapping) or not any(map(number, strengths.values())):
        return NONE
    return ", ".join(f"{tower} {figures(value)}" for tower, value in strengths.items())


def _layers(layers: Sequence[Row], precision: str) -> Safe:
    shown = [key for key in MEASURES if any(number(row.get(key)) is not None for row in layers)]
    rows = [[_name(row), *(figures(row.get(key)) for key in shown)] for row in layers[:MOST_ROWS]]
    told = f"Each layer alone in {precision}, worst first"
    if len(layers) > MOST_ROWS:
        told += f"; {MOST_ROWS} of {len(layers)}"
    return table(["layer", *(MEASURES[key] for key in shown)], rows, told)


def _name(row: Row) -> str:
    return f"{row.get('tower', '?')} {row.get('node', '?')}"


def _shortened(name: str) -> str:
    """Return a name whose end, which tells layers apart, is kept."""
    tower, _, node = name.partition(" ")
    room = LONGEST - len(tower) - 2
    return name if len(node) <= room + 1 else f"{tower} …{node[-room:]}"
