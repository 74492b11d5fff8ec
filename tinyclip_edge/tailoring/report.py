"""What a tailoring has found: every candidate, the bundle, the teacher beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.notebook import NotebookReport, report_table
from tinyclip_edge.tailoring.agreement import Agreement
from tinyclip_edge.units import three_digits

if TYPE_CHECKING:
    from rich.table import Table

TEACHER, GENERAL, BUNDLE = "teacher", "general", "bundle"


@dataclass(frozen=True, slots=True)
class Entry:
    """One model: its cost on this machine, and its answers on the held-out pictures."""

    name: str
    kind: str  # teacher, general, candidate or bundle
    about: str  # shape or MODEL
    mb: float
    ms: float
    steps: int | None = None
    agreement: Agreement | None = None  # None before it was evaluated

    @property
    def top1(self) -> float | None:
        """Share of the teacher's labels, the teacher's own being 1."""
        if self.kind == TEACHER:
            return 1.0
        return None if self.agreement is None else self.agreement.top1

    @property
    def accuracy(self) -> float | None:
        """Share of the true labels, where folders name them."""
        return None if self.agreement is None else self.agreement.accuracy


@dataclass(frozen=True, slots=True)
class ExportedFiles:
    """What a device opens of the bundle: bytes by path, and milliseconds of a picture."""

    files: dict[str, int]
    ms: float

    @property
    def mb(self) -> float:
        """Megabytes of the files."""
        return sum(self.files.values()) / 1e6


@dataclass(frozen=True, slots=True)
class TailorReport(NotebookReport):
    """A finished tailoring."""

    bundle: Path
    ship: tuple[str, ...]  # files of the bundle that the device needs
    work: Path
    page: Path
    winner: str
    run: Path
    max_mb: float
    max_ms: float
    train_pictures: int
    held_out: int
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = field(default=())  # that do the same by hand

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain = asdict(self)
        return {key: str(v) if isinstance(v, Path) else v for key, v in plain.items()}

    def table(self) -> Table:
        """Return the table to print, cheapest first."""
        knows = any(entry.accuracy is not None for entry in self.entries)
        columns = ["MB", "ms", "steps", "teacher's\nlabels, %", "first 5,\n%"]
        table = report_table(
            f"{self.held_out:,} held-out pictures",
            [*columns, *(["right,\n%"] if knows else [])],
            [
                f"at most {self.max_mb:g} MB and {self.max_ms:g} ms; ms: a decoded picture, one "
                "thread, here; candidates in int8, the teacher in fp32",
            ],
        )
        for entry in self.ranked():
            cells = [three_digits(entry.mb), three_digits(entry.ms), str(entry.steps or "")]
            found = entry.agreement
            cells += [_percent(entry.top1), _percent(None if found is None else found.top5)]
            table.add_row(self._label(entry), *cells, *([_percent(entry.accuracy)] * knows))
        return table

    def ranked(self) -> Sequence[Entry]:
        """Return the entries from the smallest to the largest."""
        return sorted(self.entries, key=lambda entry: (entry.mb, entry.name))

    def _label(self, entry: Entry) -> str:
        return f"{entry.name} *" if entry.name == self.winner else entry.name


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
