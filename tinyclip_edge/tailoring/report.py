"""The result of a tailoring: every candidate and the bundle, beside the teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
    """One model: its cost on this machine, and its agreement on the held-out pictures."""

    name: str
    kind: str  # teacher, general, candidate or bundle
    about: str  # shape or MODEL
    mb: float
    ms: float
    steps: int | None = None
    agreement: Agreement | None = None  # None before its evaluation

    @property
    def top1(self) -> float | None:
        """Share of pictures with the teacher's label; 1 for the teacher itself."""
        if self.kind == TEACHER:
            return 1.0
        return None if self.agreement is None else self.agreement.top1

    @property
    def accuracy(self) -> float | None:
        """Share of pictures with the true label, if folders name it."""
        return None if self.agreement is None else self.agreement.accuracy


@dataclass(frozen=True, slots=True)
class ExportedFiles:
    """The files of a bundle that a device opens: bytes by path, and milliseconds per picture."""

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
    commands: tuple[str, ...] = field(default=())  # to do the same by hand

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain = asdict(self)
        return {key: str(v) if isinstance(v, Path) else v for key, v in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TailorReport:
        """Return the report that ``as_dict`` wrote; else KeyError, TypeError or ValueError."""
        return cls(
            bundle=Path(plain["bundle"]),
            ship=_lines(plain["ship"]),
            work=Path(plain["work"]),
            page=Path(plain["page"]),
            winner=str(plain["winner"]),
            run=Path(plain["run"]),
            max_mb=_number(plain["max_mb"]),
            max_ms=_number(plain["max_ms"]),
            train_pictures=int(plain["train_pictures"]),
            held_out=int(plain["held_out"]),
            entries=tuple(_entry(row) for row in plain["entries"]),
            notes=_lines(plain["notes"]),
            commands=_lines(plain["commands"]),
        )

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
            agreement = entry.agreement
            cells += [_percent(entry.top1), _percent(None if agreement is None else agreement.top5)]
            table.add_row(self._label(entry), *cells, *([_percent(entry.accuracy)] * knows))
        return table

    def ranked(self) -> Sequence[Entry]:
        """Return the entries from the smallest to the largest."""
        return sorted(self.entries, key=lambda entry: (entry.mb, entry.name))

    def _label(self, entry: Entry) -> str:
        return f"{entry.name} *" if entry.name == self.winner else entry.name


def _entry(plain: Mapping[str, Any]) -> Entry:
    steps, agreement = plain["steps"], plain["agreement"]
    return Entry(
        name=str(plain["name"]),
        kind=str(plain["kind"]),
        about=str(plain["about"]),
        mb=_number(plain["mb"]),
        ms=_number(plain["ms"]),
        steps=None if steps is None else int(steps),
        agreement=None if agreement is None else _agreement(agreement),
    )


def _agreement(plain: Mapping[str, Any]) -> Agreement:
    shares = {name: _number(plain[name]) for name in ("top1", "top5", "kl")}
    right = plain["accuracy"]
    accuracy = None if right is None else _number(right)
    return Agreement(pictures=int(plain["pictures"]), **shares, accuracy=accuracy)


def _lines(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(str, values))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
