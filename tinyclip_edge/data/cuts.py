"""What a source could not give: shards that end too early, faulty samples, files left out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from heapq import nsmallest

DIGITS = re.compile(r"([0-9]+)")
NUMBER_WIDTH = 20  # digits
NAMED_FAULTS = 5  # of a message; more are counted


class FaultySampleError(Exception):
    """One sample is no pair; the reader notes it and goes on."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a shard ends: after so many whole samples, and samples known to be lost (0 or 1)."""

    samples: int
    unusable: int


@dataclass(slots=True)
class Losses:
    """What the parts of a source met while they were read, once each however often it is read."""

    cuts: dict[str, Cut] = field(default_factory=dict)  # by shard
    faults: dict[str, None] = field(default_factory=dict)  # a line a sample that is of no use
    samples: dict[str, int] = field(default_factory=dict)  # usable ones that a part gave
    omitted: dict[str, None] = field(default_factory=dict)  # a line a folder

    def add_cut(self, name: str, cut: Cut) -> None:
        """Note a shard that was read to its early end."""
        self.cuts[name] = cut

    def add_fault(self, line: str) -> None:
        """Note a sample that is of no use: the line says where it stands and why."""
        self.faults[line] = None

    def add_omitted(self, line: str) -> None:
        """Note files of a folder that nobody reads."""
        self.omitted[line] = None

    def count(self, name: str, samples: int) -> None:
        """Note how many usable samples a part gave so far."""
        if samples > self.samples.get(name, 0):
            self.samples[name] = samples

    def correct(self, name: str, samples: int) -> None:
        """Note how many usable samples a part has that was counted before it was read."""
        self.samples[name] = samples

    def merge(self, other: Losses) -> None:
        """Note what another process met."""
        self.cuts.update(other.cuts)
        self.faults.update(other.faults)
        self.omitted.update(other.omitted)
        for name, samples in other.samples.items():
            self.count(name, samples)

    @property
    def cut_off(self) -> int:
        """Samples known to be lost at the ends of cut shards."""
        return sum(cut.unusable for cut in self.cuts.values())

    @property
    def unusable(self) -> int:
        """Samples known to be unusable: faulty or cut off."""
        return self.cut_off + len(self.faults)

    @property
    def read(self) -> int:
        """Usable samples of one pass over the parts that were read."""
        return sum(self.samples.values())

    def cut_lines(self) -> list[str]:
        """Return one line a cut shard, by name: parts are read in another order every time."""
        note = "; the cut one is left out"
        return [
            f"shard {name} is cut off after {cut.samples} samples{note if cut.unusable else ''}"
            for name, cut in sorted(self.cuts.items())
        ]

    def named_faults(self) -> str:
        """Return the first faults, by name, and how many follow; empty without any."""
        first = nsmallest(NAMED_FAULTS, self.faults, key=_by_number)
        more = len(self.faults) - len(first)
        return "; ".join(first) + (f" and {more} more" if more > 0 else "")

    def lines(self) -> list[str]:
        """Return one line a cut shard, one about all faulty samples, one a folder."""
        count = len(self.faults)
        what = f"{count} faulty sample{'s' if count > 1 else ''}"
        faults = [f"skipped {what}: {self.named_faults()}"] if count else []
        return [*self.cut_lines(), *faults, *sorted(self.omitted)]


def _by_number(line: str) -> list[str]:
    """Return a key that sorts line 9 before line 10."""
    return [part.zfill(NUMBER_WIDTH) if part.isdigit() else part for part in DIGITS.split(line)]
