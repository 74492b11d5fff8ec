"""Read the events of a run and check the fields that pages and plots rely on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyclip_edge.report.drawing import TOWERS, Event, number
from tinyclip_edge.run_events import EventLines, read_event_lines


def read_lines(path: Path) -> EventLines:
    """Read a file of events; one that lacks a required field counts as broken."""
    return read_event_lines(path, _is_valid)


def _is_valid(event: Event) -> bool:
    try:
        check = _SHAPES.get(event["kind"])
        return check is None or check(event)
    except (KeyError, TypeError, AttributeError, OverflowError):
        return False


def _numbers(values: object) -> bool:
    return isinstance(values, list) and all(number(value) is not None for value in values)


def _gates(event: Event) -> bool:
    return _prune(event) and all(
        len(event[tower]["log_alpha"]) and _numbers(event[tower]["log_alpha"]) for tower in TOWERS
    )


def _prune(event: Event) -> bool:
    kinds = ("heads", "neurons")
    return all(event[t][kind] and _numbers(event[t][kind]) for t in TOWERS for kind in kinds)


def _inherit(event: Event) -> bool:
    counts = [number(value) for part in event["parameters"].values() for value in part.values()]
    if None in counts or not isinstance(event["notes"], list):
        return False
    inherited = event["taken"]
    return inherited is None or (
        _valid_share(inherited["embedding"]) and all(_valid_tower(inherited[t]) for t in TOWERS)
    )


def _valid_tower(tower: dict[str, Any]) -> bool:
    shares = [*tower["shared"].values()]
    for layer in tower["layers"]:
        if not isinstance(layer["student"], int | None) or not isinstance(layer["name"], str):
            return False
        shares += layer["units"].values()
    return bool(tower["layers"]) and all(map(_valid_share, shares))


def _valid_share(share: dict[str, Any]) -> bool:
    return _numbers([share["of"], share["taken"]]) and share["of"] > 0 and _numbers(share["bins"])


_SHAPES: dict[str, Callable[[Event], bool]] = {
    "gates": _gates,
    "prune": _prune,
    "inherit": _inherit,
    "run_start": lambda event: isinstance(event.get("versions", {}), dict),
}
