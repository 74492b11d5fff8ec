"""Losses of a source: truncated shards, faulty samples, skipped files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from heapq import nsmallest

DIGITS = re.compile(r"([0-9]+)")
NUMBER_WIDTH = 20  # digits
NAMED_FAULTS = 5  # listed in a message; the others are counted


class FaultySampleError(Exception):
    """A sample without a usable image and caption; the reader counts it and continues."""


@dataclass(frozen=True, slots=True)
class Cut:
    """End of a truncated shard: complete samples, and samples known to be lost (0 or 1)."""

    samples: int  # complete ones before the cut
    unusable: int  # incomplete ones at the cut, 0 or 1


@dataclass(slots=True)
class Losses:
    """Losses while reading the parts of a source; each counts once, however often it is read."""

    cuts: dict[str, Cut] = field(default_factory=dict)  # by shard
    faults: dict[str, None] = field(default_factory=dict)  # one line per unusable sample
    samples: dict[str, int] = field(default_factory=dict)  # usable ones of each part
    omitted: dict[str, None] = field(default_factory=dict)  # one line per folder

    def add_cut(self, name: str, cut: Cut) -> None:
        """Add a truncated shard."""
        self.cuts[name] = cut

    def add_fault(self, line: str) -> None:
        """Add an unusable sample: the line says where it is and why."""
        self.faults[line] = None

    def add_omitted(self, line: str) -> None:
        """Add skipped files of a folder."""
        self.omitted[line] = None

    def count(self, name: str, samples: int) -> None:
        """Set how many usable samples a part has had so far."""
        if samples > self.samples.get(name, 0):
            self.samples[name] = samples

    def correct(self, name: str, samples: int) -> None:
        """Replace the estimated number of usable samples of a part by the exact one."""
        self.samples[name] = samples

    def merge(self, other: Losses) -> None:
        """Add the losses of another process."""
        self.cuts.update(other.cuts)
        self.faults.update(other.faults)
        self.omitted.update(other.omitted)
        for name, samples in other.samples.items():
            self.count(name, samples)

    @property
    def cut_off(self) -> int:
        """Incomplete samples at the ends of truncated shards."""
        return sum(cut.unusable for cut in self.cuts.values())

    @property
    def unusable(self) -> int:
        """Samples known to be unusable: faulty or truncated."""
        return self.cut_off + len(self.faults)

    @property
    def read(self) -> int:
        """Usable samples in one pass over the parts read so far."""
        return sum(self.samples.values())

    def cut_lines(self) -> list[str]:
        """Return one line per truncated shard, sorted by name because reading order varies."""
        note = "; the incomplete one is skipped"
        return [
            f"shard {name} is truncated after {cut.samples:,} samples{note if cut.unusable else ''}"
            for name, cut in sorted(self.cuts.items())
        ]

    def named_faults(self) -> str:
        """Return the first faults by name and the number of others; empty without any."""
        first = nsmallest(NAMED_FAULTS, self.faults, key=_by_number)
        more = len(self.faults) - len(first)
        return "; ".join(first) + (f" and {more:,} more" if more > 0 else "")

    def lines(self) -> list[str]:
        """Return one line per truncated shard, one for all faulty samples, and one per folder."""
        count = len(self.faults)
        what = f"{count:,} faulty sample{'s' if count > 1 else ''}"
        faults = [f"skipped {what}: {self.named_faults()}"] if count else []
        return [*self.cut_lines(), *faults, *sorted(self.omitted)]


def _by_number(line: str) -> list[str]:
    """Return a sort key that puts line 9 before line 10."""
    return [part.zfill(NUMBER_WIDTH) if part.isdigit() else part for part in DIGITS.split(line)]
