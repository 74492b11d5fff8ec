"""A source of pictures: a named list of parts with what is known about their sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from typing import Protocol

from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.pairs import BadSamples, Pair
from tinyclip_edge.data.texts import Texts


class Part(Protocol):
    """A shard, or a few hundred rows of a table or folder; iterating reads its pairs in order."""

    @property
    def fingerprint(self) -> str:
        """A string that determines the order of its pairs."""

    @property
    def pairs(self) -> int | None:
        """Number of its pairs, if that is known without reading."""

    @property
    def at_most(self) -> int | None:
        """Upper bound on the number of its pairs; None for a part that can only be streamed."""

    @property
    def size(self) -> int | None:
        """Size in bytes, for comparing parts; None if unknown."""

    def __iter__(self) -> Iterator[Pair]:
        """Read the pairs."""


class RowsPart:
    """A part that has a pair for each of its rows."""

    __slots__ = ()
    rows: Sized

    @property
    def pairs(self) -> int:
        """Number of its pairs."""
        return len(self.rows)

    @property
    def at_most(self) -> int:
        """Number of its pairs."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Count:
    """Number of pairs of a source."""

    pairs: int
    exact: bool  # otherwise estimated from the first part of its kind


@dataclass(frozen=True, slots=True)
class PairSource:
    """Parts under one name; iterating reads every pair in order.

    At the end, DataError is raised if more than one per cent of the samples were faulty.
    """

    name: str
    parts: tuple[Part, ...]
    losses: Losses = field(default_factory=Losses)  # of its parts, added while they are read
    texts: Texts | None = None  # drawn independently of pictures; None: pictures have captions

    def __iter__(self) -> Iterator[Pair]:
        for part in self.parts:
            yield from part
        self.check(self.losses.read)

    def known(self) -> list[str]:
        """Return lines about omissions that are known without reading pictures."""
        return [*self.losses.lines(), *([] if self.texts is None else self.texts.notes())]

    def check(self, usable: int) -> None:
        """Raise DataError if more than one per cent are faulty, given the usable ones."""
        if self.losses.faults:
            BadSamples(self.name, self.losses).check(usable, final=True)

    @property
    def fingerprint(self) -> str:
        """Hash of the fingerprints of parts and texts, which determine the order of a stream."""
        lines = [part.fingerprint for part in self.parts]
        if self.texts is not None:
            lines.append(self.texts.fingerprint)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def count(self) -> Count:
        """Count the pairs; parts of unknown length are estimated from one that is read."""
        listed = sum(part.pairs for part in self.parts if part.pairs is not None)
        unknown = [part for part in self.parts if part.pairs is None]
        if not unknown:
            return Count(listed, exact=True)
        read = sum(1 for _ in unknown[0])
        sizes = [part.size or part.at_most or 0 for part in unknown]
        likely = -(-read * sum(sizes) // sizes[0]) if all(sizes) else read * len(unknown)
        return Count(listed + likely, exact=len(unknown) == 1)

    def holds(self, limit: float) -> bool:
        """Whether its encoded pictures take at most ``limit`` bytes in memory.

        Files named by a table or folder are read again each time; remote parts do not fit.
        """
        if limit == 0 or any(part.at_most is None for part in self.parts):
            return False
        return sum(part.size or 0 for part in self.parts) <= limit

    def fits(self, limit: int) -> bool:
        """Whether it has at most ``limit`` pairs; False if it can only be streamed."""
        bounds = [part.at_most for part in self.parts]
        if limit == 0 or None in bounds:
            return False
        most = sum(bound for bound in bounds if bound is not None)
        return most <= limit or self.count().pairs <= limit
