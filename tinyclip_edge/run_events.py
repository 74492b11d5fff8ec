"""The event file of a run: one JSON object per line; damaged lines are returned separately."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import JSON_BYTES

MAX_STEP = 1 << 53  # larger integers are not exact as a float
_FIRST = (b"{", b"\xef")  # of an event, the second of one behind a byte order mark


@dataclass(frozen=True, slots=True)
class EventLines:
    """Content of a file of events."""

    events: tuple[dict[str, Any], ...]
    broken: tuple[int, ...] = ()  # numbers of the lines without an event of distill
    damaged: tuple[bytes, ...] = ()  # those lines


def read_event_lines(
    path: Path, is_valid: Callable[[dict[str, Any]], bool] = lambda _: True
) -> EventLines:
    """Read a file of events; a truncated last line, as after a kill, is ignored.

    ``is_valid`` may reject further events besides those without kind or step. Raises OSError.
    """
    events, broken, damaged = [], [], []
    number, is_complete = 0, True
    with path.open("rb") as file:
        while line := file.readline(JSON_BYTES):  # a longer one is damaged, in pieces
            number, is_complete = number + is_complete, line.endswith(b"\n")
            event = _event(line)
            if event is not None and is_valid(event):
                events.append(event)
            elif line.strip() and (
                is_complete or len(line) == JSON_BYTES or _parsed(line) is not None
            ):
                broken.append(number)
                damaged.append(line.rstrip(b"\n"))
    return EventLines(tuple(events), tuple(broken), tuple(damaged))


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a run, without damaged lines."""
    return list(read_event_lines(path).events)


def _event(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line, None if it has none."""
    if line.lstrip()[:1] not in _FIRST:  # a damaged file may have millions of lines
        return None
    event = _parsed(line)
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return None
    step = event.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < MAX_STEP:
        return None
    return event


def _parsed(line: bytes) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON value of a line, None for invalid JSON or text."""
    try:
        value = parse_json(line)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is not text
    except (ValueError, RecursionError):
        return None
    return value
