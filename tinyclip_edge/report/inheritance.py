"""What the student took of its teacher before the first step, as a map and in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tinyclip_edge.report.drawing import TOWERS, Event
from tinyclip_edge.report.html import Safe, element, note, section, table
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.report.words import NONE, count, percent

ORIGINS = ("copied", "sliced", "fresh")
# Units of the map's own coordinates.
NAMES, STRIP, GAP, ROW, BAR = 78, 150, 14, 15, 10


def heritage(record: RunRecord) -> Safe | None:
    """Return the map of step 0, and of each stage that inherited; None where nothing was."""
    found = {event.get("stage", 1): event for event in record.of("inherit")}
    if not found:
        return None
    parts: list[Safe] = []
    for stage, event in found.items():
        if len(found) > 1:
            parts.append(element("h3", f"Stage {stage}, at step {event['step']:,}"))
        parts += _one(event, f"stage{len(parts)}")
    return section("inherited", "What the student inherited", *parts)


def _one(event: Event, key: str) -> Iterator[Safe]:
    yield note(f"Method: {event.get('method', NONE)}. Filled: taken from the teacher.")
    taken = event["taken"]
    if taken is not None:
        maps = (_map(taken[tower], tower, f"{key}-{tower}") for tower in TOWERS)
        yield element("div", *maps, class_="maps")
        numbers = table(
            ["", "teacher's layers taken", "heads a layer", "neurons a layer", "shared by layers"],
            [[f"{tower} tower", *_cells(taken[tower])] for tower in TOWERS],
            f"Taken of the teacher; embedding dimensions: {_share(taken['embedding'])}",
        )
        yield element("div", numbers, class_="lists")
    rows = [
        [name, *(count(part.get(origin)) for origin in ORIGINS)]
        for name, part in event["parameters"].items()
    ]
    parts = event["parameters"].values()
    whole = sum(sum(part.values()) for part in parts)
    fresh = sum(part.get("fresh", 0) for part in parts)
    told = f"The teacher gave {percent((whole - fresh) / whole if whole else None)} of the student"
    yield table(["parameters", *ORIGINS], rows, told)
    for told in event["notes"]:
        yield note(told)


def _cells(tower: Mapping[str, Any]) -> list[str]:
    layers = tower["layers"]
    taken = [layer for layer in layers if layer["student"] is not None]
    names = ", ".join(str(layer["name"]) for layer in taken)
    kinds = [_range([layer["units"][kind] for layer in taken if kind in layer["units"]])
             for kind in ("heads", "neurons")]  # fmt: skip
    shared = "; ".join(f"{name} {_share(share)}" for name, share in tower["shared"].items())
    return [f"{len(taken)} of {len(layers)}: {names}", *kinds, shared]


def _range(shares: list[Mapping[str, Any]]) -> str:
    told = list(dict.fromkeys(_share(share) for share in shares))
    return NONE if not told else told[0] if len(told) == 1 else f"{told[0]} to {told[-1]}"


def _share(share: Mapping[str, Any]) -> str:
    return f"{count(share['taken'])} of {count(share['of'])}"


def _map(tower: Mapping[str, Any], name: str, key: str) -> Safe:
    """Draw a row a teacher layer: heads, neurons; at the end the axes that layers share."""
    kinds = list(dict.fromkeys(kind for layer in tower["layers"] for kind in layer["units"]))
    parts = [
        _words(NAMES + place * (STRIP + GAP), ROW - 4, kind) for place, kind in enumerate(kinds)
    ]
    y = ROW
    for layer in tower["layers"]:
        place = layer["student"]
        told = f"{layer['name']} → {place}" if place is not None else str(layer["name"])
        parts.append(_words(0, y + BAR - 1, told, "dim" if place is None else None))
        for column, kind in enumerate(kinds):
            x = NAMES + column * (STRIP + GAP)
            parts.append(_strip(x, y, layer["units"].get(kind)))
        y += ROW
    y += ROW // 2
    for axis, share in tower["shared"].items():
        parts += [_words(0, y + BAR - 1, axis), _strip(NAMES, y, share)]
        y += ROW
    title = f"Teacher layers, heads and neurons that the {name} tower took"
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
    caption = "teacher's layer → student's, from the input upwards"
    return element(
        "figure", drawing, element("figcaption", element("b", f"{name} tower"), f" {caption}")
    )


def _strip(x: float, y: float, share: Mapping[str, Any] | None) -> Safe:
    """Draw an axis, front on the left; parts that were taken in part are paler."""
    track = element("rect", x=x, y=y, width=STRIP, height=BAR, class_="track")
    if share is None:
        return track
    bins = share["bins"]
    width = STRIP / max(len(bins), 1)
    cells = (
        element(
            "rect",
            x=f"{x + place * width:.2f}",
            y=y,
            width=f"{max(width - 0.7, 0.5):.2f}",
            height=BAR,
            class_="took",
            opacity=f"{part:g}" if part < 1 else None,
        )
        for place, part in enumerate(bins)
        if part > 0
    )
    return Safe(track + "".join(cells))


def _words(x: float, y: float, told: str, class_: str | None = None) -> Safe:
    return element("text", told, x=x, y=y, class_=class_)
