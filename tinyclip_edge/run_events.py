"""The event file of a run: one JSON object per line; damaged lines are returned separately."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import DataError
from tinyclip_edge.json_text import count_values, parse_json
from tinyclip_edge.limits import EVENT_VALUES, JSON_BYTES

MAX_STEP = 1 << 53  # larger integers are not exact as a float
_FIRST = (b"{", b"\xef")  # first byte of an event, without and with a byte order mark


@dataclass(frozen=True, slots=True)
class EventLine:
    """One line of a file of events."""

    number: int
    content: bytes  # without the line break
    event: dict[str, Any] | None  # None for a damaged line


@dataclass(frozen=True, slots=True)
class EventLines:
    """Content of a file of events."""

    events: tuple[dict[str, Any], ...]
    broken: tuple[int, ...] = ()  # numbers of the lines without a valid event
    damaged: tuple[bytes, ...] = ()  # those lines


def read_event_lines(
    path: Path, is_valid: Callable[[dict[str, Any]], bool] = lambda _: True
) -> EventLines:
    """Read a file of events into memory; a truncated last line, as after a kill, is ignored.

    A line is damaged if its event has no kind or step, or ``is_valid`` rejects it. Raises OSError,
    and DataError for a file with too many values.
    """
    events, broken, damaged, values = [], [], [], 0
    for line in iterate_lines(path):
        values += count_values(line.content)
        if values > EVENT_VALUES:
            raise DataError(f"{path} has more than {EVENT_VALUES:,} values; raise run.log_every")
        if line.event is not None and is_valid(line.event):
            events.append(line.event)
        else:
            broken.append(line.number)
            damaged.append(line.content)
    return EventLines(tuple(events), tuple(broken), tuple(damaged))


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a run, without damaged lines."""
    return list(read_event_lines(path).events)


def iterate_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a run, without damaged lines; a file of any size. Raises OSError."""
    return (line.event for line in iterate_lines(path) if line.event is not None)


def iterate_lines(path: Path) -> Iterator[EventLine]:
    """Yield the lines of a file of events, except blank ones and a truncated last one.

    Raises OSError.
    """
    number, is_complete = 0, True
    with path.open("rb") as file:
        while line := file.readline(JSON_BYTES):  # a longer one: damaged pieces
            number, is_complete = number + is_complete, line.endswith(b"\n")
            event = _event(line)
            is_whole = is_complete or len(line) == JSON_BYTES
            if event is not None or (line.strip() and (is_whole or _parsed(line) is not None)):
                yield EventLine(number, line.rstrip(b"\n"), event)


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
