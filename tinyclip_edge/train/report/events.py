"""The events of a run, each checked, so that pages and plots may rely on what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.train.drawing import TOWERS, Event, number

MOST_STEPS = 1 << 53  # a float holds no more


@dataclass(frozen=True, slots=True)
class EventLines:
    """What a file of events holds."""

    events: tuple[Event, ...]
    broken: tuple[int, ...]  # numbers of the lines that hold no event that distill writes


def read_lines(path: Path) -> EventLines:
    """Read a file of events; a last line that a kill cut short counts as not written."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    events, broken = [], []
    for place, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            if place < len(lines):
                broken.append(place)
            continue
        if _sound(event):
            events.append(event)
        else:
            broken.append(place)
    return EventLines(tuple(events), tuple(broken))


def _sound(event: object) -> bool:
    """Say whether an event has what pages and plots take for granted."""
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return False
    step = event.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < MOST_STEPS:
        return False
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
    taken = event["taken"]
    return taken is None or (_share(taken["embedding"]) and all(_taken(taken[t]) for t in TOWERS))


def _taken(tower: dict[str, Any]) -> bool:
    shares = [*tower["shared"].values()]
    for layer in tower["layers"]:
        if not isinstance(layer["student"], int | None):
            return False
        shares += layer["units"].values()
    return bool(tower["layers"]) and all(map(_share, shares))


def _share(share: dict[str, Any]) -> bool:
    return _numbers([share["of"], share["taken"]]) and share["of"] > 0 and _numbers(share["bins"])


_SHAPES: dict[str, Callable[[Event], bool]] = {
    "gates": _gates,
    "prune": _prune,
    "inherit": _inherit,
    "run_start": lambda event: isinstance(event.get("versions", {}), dict),
}
