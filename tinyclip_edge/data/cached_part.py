"""A part of a source with the teacher's features of its pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tinyclip_edge.data.pairs import Pair
from tinyclip_edge.data.source import Part

if TYPE_CHECKING:
    from tinyclip_edge.data.feature_store import FeatureStore


@dataclass(frozen=True, slots=True)
class CachedPart:
    """A part whose pairs carry their cached features."""

    part: Part
    store: FeatureStore

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the part."""
        return self.part.fingerprint

    @property
    def pairs(self) -> int | None:
        """The number of pairs of the part."""
        return self.part.pairs

    @property
    def at_most(self) -> int | None:
        """The maximum number of pairs of the part."""
        return self.part.at_most

    @property
    def size(self) -> int | None:
        """The size of the part."""
        return self.part.size

    def __iter__(self) -> Iterator[Pair]:
        cached = self.store.load(self.part)
        for pair in self.part:
            yield pair if cached is None else replace(pair, cached=cached.of(pair))
