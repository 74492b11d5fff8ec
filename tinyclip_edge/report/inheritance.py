"""Which weights the student inherited from its teacher, as a map and in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tinyclip_edge.report.drawing import TOWERS, Event
from tinyclip_edge.report.html import Safe, element, note, section, table
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.report.words import NONE, count, percent

ORIGINS = ("copied", "sliced", "frozen", "fresh")
# Units of the map's own coordinates.
NAMES, STRIP, GAP, ROW, BAR = 78, 150, 14, 15, 10


def inherited_map(record: RunRecord) -> Safe | None:
    """Return a map for step 0 and each stage that inherited; None when nothing was inherited."""
    events = {event.get("stage", 1): event for event in record.of("inherit")}
    if not events:
        return None
    parts: list[Safe] = []
    for stage, event in events.items():
        if len(events) > 1:
            parts.append(element("h3", f"Stage {stage}, at step {event['step']:,}"))
        parts += _stage_parts(event, f"stage{len(parts)}")
    return section("inherited", "What the student inherited", *parts)


def _stage_parts(event: Event, key: str) -> Iterator[Safe]:
    yield note(f"Method: {event.get('method', NONE)}. Filled: inherited from the teacher.")
    shares = event["taken"]
    if shares is not None:
        maps = (_tower_map(shares[tower], tower, f"{key}-{tower}") for tower in TOWERS)
        yield element("div", *maps, class_="maps")
        numbers = table(
            ["", "teacher layers", "heads per layer", "neurons per layer", "shared by layers"],
            [[f"{tower} tower", *_cells(shares[tower])] for tower in TOWERS],
            f"Inherited units; embedding dimensions: {_share(shares['embedding'])}",
        )
        yield element("div", numbers, class_="lists")
    parts = event["parameters"].values()
    still = any(part.get("frozen") for part in parts)
    origins = [origin for origin in ORIGINS if origin != "frozen" or still]
    rows = [
        [name, *(count(part.get(origin)) for origin in origins)]
        for name, part in event["parameters"].items()
    ]
    total = sum(sum(part.values()) for part in parts)
    fresh = sum(part.get("fresh", 0) for part in parts)
    caption = f"{percent((total - fresh) / total if total else None)} of the student is inherited"
    yield table(["parameters", *origins], rows, caption)
    for remark in event["notes"]:
        yield note(remark)


def _cells(tower: Mapping[str, Any]) -> list[str]:
    layers = tower["layers"]
    inherited = [layer for layer in layers if layer["student"] is not None]
    names = ", ".join(str(layer["name"]) for layer in inherited)
    kinds = [_range([layer["units"][kind] for layer in inherited if kind in layer["units"]])
             for kind in ("heads", "neurons")]  # fmt: skip
    shared = "; ".join(f"{name} {_share(share)}" for name, share in tower["shared"].items())
    return [f"{len(inherited):,} of {len(layers)}: {names}", *kinds, shared]


def _range(shares: list[Mapping[str, Any]]) -> str:
    texts = list(dict.fromkeys(_share(share) for share in shares))
    return NONE if not texts else texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _share(share: Mapping[str, Any]) -> str:
    return f"{count(share['taken'])} of {count(share['of'])}"


def _tower_map(tower: Mapping[str, Any], name: str, key: str) -> Safe:
    """Draw one row per teacher layer (heads, neurons), then the axes that all layers share."""
    kinds = list(dict.fromkeys(kind for layer in tower["layers"] for kind in layer["units"]))
    parts = [
        _svg_text(NAMES + position * (STRIP + GAP), ROW - 4, kind)
        for position, kind in enumerate(kinds)
    ]
    y = ROW
    for layer in tower["layers"]:
        position = layer["student"]
        label = f"{layer['name']} → {position}" if position is not None else str(layer["name"])
        parts.append(_svg_text(0, y + BAR - 1, label, "dim" if position is None else None))
        for column, kind in enumerate(kinds):
            x = NAMES + column * (STRIP + GAP)
            parts.append(_strip(x, y, layer["units"].get(kind)))
        y += ROW
    y += ROW // 2
    for axis, share in tower["shared"].items():
        parts += [_svg_text(0, y + BAR - 1, axis), _strip(NAMES, y, share)]
        y += ROW
    title = f"Teacher layers, heads and neurons that the {name} tower inherited"
    width = NAMES + max(len(kinds), 1) * (STRIP + GAP)
    drawing = element(
        "svg",
        element("title", title, id=f"{key}-title"),
        *parts,
        class_="map",
        viewBox=f"0 0 {width} {y}",
        role="img",
        aria_labelledby=f"{key}-title",
    )
    caption = "teacher layer → student layer, starting at the input"
    return element(
        "figure", drawing, element("figcaption", element("b", f"{name} tower"), f" {caption}")
    )


def _strip(x: float, y: float, share: Mapping[str, Any] | None) -> Safe:
    """Draw an axis from left to right; partly inherited bins are paler."""
    track = element("rect", x=x, y=y, width=STRIP, height=BAR, class_="track")
    if share is None:
        return track
    bins = share["bins"]
    width = STRIP / max(len(bins), 1)
    cells = (
        element(
            "rect",
            x=f"{x + index * width:.2f}",
            y=y,
            width=f"{max(width - 0.7, 0.5):.2f}",
            height=BAR,
            class_="took",
            opacity=f"{part:g}" if part < 1 else None,
        )
        for index, part in enumerate(bins)
        if part > 0
    )
    return Safe(track + "".join(cells))


def _svg_text(x: float, y: float, text: str, class_: str | None = None) -> Safe:
    return element("text", text, x=x, y=y, class_=class_)
