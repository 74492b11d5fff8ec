"""What is told of a feature cache while it is filled, and at its end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tinyclip_edge.train.monitoring.events import Observer

LINES = 10  # of a fill, where a run tells of it


class FillWatcher(Protocol):
    """Someone who watches a cache being filled."""

    def on_message(self, text: str) -> None:
        """Be told one line meant for people."""

    def on_pairs(self, done: int, total: int) -> None:
        """Be told how many pairs of this process are done; ``total`` may be an estimate."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What parts will take, from their number of pairs and a measured batch."""

    pairs: int
    nbytes: int
    seconds: float  # of all processes together at work

    def __str__(self) -> str:
        minutes = self.seconds / 60
        took = f"{minutes:.0f} min" if minutes >= 2 else f"{self.seconds:.0f} s"
        return f"about {self.pairs:,} pairs, {size_text(self.nbytes)}, {took}"


@dataclass(frozen=True, slots=True)
class CacheResult:
    """A filled cache; counts are of what was computed now, by all processes."""

    folder: Path
    parts: int  # of the source
    computed: int  # parts
    pictures: int
    captions: int  # distinct ones of each part
    undecodable: int
    nbytes: int
    seconds: float
    estimate: Estimate | None  # None when nothing was missing

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        found = {**asdict(self), "folder": str(self.folder)}
        for table in (found, found["estimate"] or {}):
            if "nbytes" in table:
                table["bytes"] = table.pop("nbytes")
        return found


class ProgressLines:
    """Watcher that tells a run's observer of a fill, a line now and then."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._told = 0

    def on_message(self, text: str) -> None:
        """Hand it on."""
        self._observer.on_message(text)

    def on_pairs(self, done: int, total: int) -> None:
        """Tell of each tenth."""
        tenth = done * LINES // max(1, total)
        if tenth > self._told:
            self._told = tenth
            self._observer.on_message(f"teacher features of {done:,} of {total:,} pairs")


def size_text(nbytes: int) -> str:
    """Return bytes as people read them."""
    for unit, letter in ((1e9, "G"), (1e6, "M")):
        if nbytes >= unit / 10:
            return f"{nbytes / unit:.2f} {letter}B"
    return f"{nbytes / 1e3:.1f} kB"
