"""Which layers a quantized bundle suffers from, and what leaving some of them in float buys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinyclip_edge.train.drawing import SERIES, number
from tinyclip_edge.train.report.bundles import Bundle
from tinyclip_edge.train.report.compared import lost
from tinyclip_edge.train.report.html import Safe, element, folded, section, table
from tinyclip_edge.train.report.scatter import Spot, scatter
from tinyclip_edge.train.report.words import figures, megabytes

MOST_BARS = 12
MOST_ROWS = 200
MEASURES = {"overlap": "overlap", "kl": "KL, nats", "cosine": "cosine", "ms": "ms"}
LOST = "text to image R@1 lost, points"
# Units of the bars' own coordinates.
NAMES, LONG, NUMBER, ROW, BAR = 204, 150, 50, 15, 10
LONGEST = 40  # letters of a name beside a bar; the table has all of it

Row = Mapping[str, Any]


def sensitivity(bundles: Sequence[Bundle]) -> Safe | None:
    """Return what exports measured of their layers; None where none did."""
    parts: list[Safe] = []
    measured = [bundle for bundle in bundles if _of(bundle)]
    for place, bundle in enumerate(measured):
        found = _of(bundle)
        if len(measured) > 1:
            parts.append(element("h3", bundle.folder.name))
        parts += _one(found, str(found.get("precision", "int8")), f"layers{place}")
    return section("layers", "Layers under quantization", *parts) if parts else None


def _of(bundle: Bundle) -> Row:
    found = bundle.verification.get("sensitivity")
    usable = isinstance(found, Mapping) and (_rows(found, "layers") or _rows(found, "pareto"))
    return found if isinstance(found, Mapping) and usable else {}


def _rows(found: Row, key: str) -> list[Row]:
    rows = found.get(key)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _one(found: Row, precision: str, key: str) -> Iterator[Safe]:
    layers, ways = _rows(found, "layers"), _rows(found, "pareto")
    drawn = [*_bars(layers, precision, key), *_pareto(ways, key)]
    if drawn:
        yield element("div", *drawn, class_="figures")
    if ways:
        yield _ways(ways)
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
    told = f"Nats, {len(worst)} of {len(layers)} layers: the first are those to leave in float."
    yield element("figure", drawing, element("figcaption", element("b", title), told))


def _pareto(ways: Sequence[Row], key: str) -> Iterator[Safe]:
    chosen = next((row for row in ways if row.get("chosen") is True), None)
    told = "A number: layers left in float. Up and to the left is better."
    if chosen is not None:
        told += f" Chosen, the large point: {figures(chosen.get('kept_float'))}."
    for of, factor, label, name in (
        ("bytes", 1e-6, "both towers, MB", "bytes"),
        ("ms", 1.0, "ms", "latency"),
    ):
        spots = list(_spots(ways, of, factor))
        if spots:
            yield scatter(f"{key}-{of}", f"Accuracy lost against {name}", spots, (label, LOST),
                          lower=True, caption=told)  # fmt: skip


def _spots(ways: Sequence[Row], of: str, factor: float) -> Iterator[Spot]:
    for row in ways:
        x, drop, kept = (number(row.get(key)) for key in (of, "drop", "kept_float"))
        if x is None or drop is None or kept is None:
            continue
        chosen = row.get("chosen") is True
        yield Spot(f"{kept:.0f}", factor * x, drop, number(row.get("stderr")) or 0.0,
                   SERIES[1 if chosen else 0], chosen)  # fmt: skip


def _ways(ways: Sequence[Row]) -> Safe:
    rows = [
        [
            f"{figures(row.get('kept_float'))}{', chosen' if row.get('chosen') is True else ''}",
            megabytes(row.get("bytes")),
            figures(row.get("ms")),
            lost(number(row.get("drop")), number(row.get("stderr"))),
            figures(row.get("overlap")),
            figures(row.get("kl")),
        ]
        for row in ways
    ]
    head = ["layers in float", "MB", "ms", "points lost", "overlap", "KL, nats"]
    return table(head, rows, "What leaving the worst layers in float buys; points of R@1, ± 1 SE")


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
