"""Progress of filling a feature cache, and the result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tinyclip_edge.errors import InterruptedRun
from tinyclip_edge.train.monitoring.events import Observer
from tinyclip_edge.units import duration, size

LINES = 10  # messages per fill


class FillWatcher(Protocol):
    """Observer of a cache that is being filled."""

    def on_message(self, text: str) -> None:
        """Receive one line for the user."""

    def on_pairs(self, done: int, total: int) -> None:
        """Receive the number of finished pairs of this process; ``total`` may be an estimate."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated size and time of missing parts, from their pairs and a measured batch."""

    pairs: int
    nbytes: int
    seconds: float  # all processes in parallel

    def __str__(self) -> str:
        return f"about {self.pairs:,} pairs, {size(self.nbytes)}, {duration(self.seconds)}"


class Computed(NamedTuple):
    """Counts of what was computed."""

    parts: int = 0
    pictures: int = 0
    captions: int = 0  # distinct within each part
    undecodable: int = 0  # pictures
    nbytes: int = 0

    def plus(self, more: Computed) -> Computed:
        """Return the sums of both."""
        return Computed(*(a + b for a, b in zip(self, more, strict=True)))


def interrupted_fill(folder: Path, parts: int) -> InterruptedRun:
    """Return the exception for a fill that was stopped after computing ``parts`` parts."""
    return InterruptedRun(
        f"stopped; the {parts:,} parts computed so far are in {folder}; repeat the command to "
        "compute the others"
    )


@dataclass(frozen=True, slots=True)
class CacheResult:
    """A filled cache; counts cover what this call computed, in all processes."""

    folder: Path
    parts: int  # in the source
    computed: int  # number of parts
    pictures: int
    captions: int  # distinct within each part
    undecodable: int
    nbytes: int
    seconds: float
    estimate: Estimate | None  # None if nothing was missing

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        table = {**asdict(self), "folder": str(self.folder)}
        for part in (table, table["estimate"] or {}):
            if "nbytes" in part:
                part["bytes"] = part.pop("nbytes")
        return table


class ProgressLines:
    """Watcher that reports a fill to a run's observer in a few lines."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._last_tenth = 0

    def on_message(self, text: str) -> None:
        """Pass on the line."""
        self._observer.on_message(text)

    def on_pairs(self, done: int, total: int) -> None:
        """Report every tenth of the pairs."""
        tenth = done * LINES // max(1, total)
        if tenth > self._last_tenth:
            self._last_tenth = tenth
            self._observer.on_message(f"teacher features of {done:,} of {total:,} pairs")
