"""Shards that end too early: their whole samples are used, what is known to be lost is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a shard ends: after so many whole samples, and samples known to be lost (0 or 1)."""

    samples: int
    lost: int


@dataclass(slots=True)
class CutShards:
    """The cut shards of a source by name; one that is read in every epoch is there once."""

    found: dict[str, Cut] = field(default_factory=dict)

    def add(self, name: str, cut: Cut) -> None:
        """Note a shard that was read to its early end."""
        self.found[name] = cut

    def add_all(self, found: Mapping[str, Cut]) -> None:
        """Note what another process found."""
        self.found.update(found)

    @property
    def lost(self) -> int:
        """Samples known to be lost."""
        return sum(cut.lost for cut in self.found.values())

    @property
    def read(self) -> int:
        """Whole samples that the cut shards gave."""
        return sum(cut.samples for cut in self.found.values())

    def lines(self) -> list[str]:
        """Return one line a shard, by name: parts are read in another order every time."""
        told = "; the cut one is left out"
        return [
            f"shard {name} is cut off after {cut.samples} samples{told if cut.lost else ''}"
            for name, cut in sorted(self.found.items())
        ]
