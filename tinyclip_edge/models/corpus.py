"""Texts that a vocabulary is made for, and how well it fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Distinct texts as ids, without special tokens and of any length."""

    texts: tuple[str, ...]
    times: Ints  # [N] how often each occurs
    ids: Ints  # [T] of all texts, one after the other
    ends: Ints  # [N] where each ends in ``ids``

    @property
    def counts(self) -> dict[int, int]:
        """How often each token occurs, by id."""
        lengths = np.diff(self.ends, prepend=0)
        counts = np.bincount(self.ids, weights=np.repeat(self.times, lengths))
        return {int(index): int(counts[index]) for index in counts.nonzero()[0]}

    def covered(self, ids: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Whether all tokens of each text are among ``ids``, ``[N]``."""
        missing = np.concatenate([[0], np.cumsum(~np.isin(self.ids, ids))])
        covered: npt.NDArray[np.bool_] = np.diff(missing[self.ends], prepend=0) == 0
        return covered

    def pieces(self, number: int) -> list[int]:
        """Return the ids of a text."""
        start = int(self.ends[number - 1]) if number else 0
        ids: list[int] = self.ids[start : self.ends[number]].tolist()
        return ids


@dataclass(frozen=True, slots=True)
class VocabularyReport:
    """Sizes of a smaller vocabulary, and how well it fits the texts it was made for."""

    tokens: int
    of: int
    texts: int  # distinct
    recut: int  # texts that are now split into other pieces
    unknown: int  # tokens of the texts that the tokenizer does not know

    def line(self) -> str:
        """Return the report as one sentence."""
        parts = [f"{self.tokens:,} of {self.of:,} tokens for {self.texts:,} different texts"]
        if self.recut:
            parts.append(f"{self.recut:,} of them are cut into other, smaller pieces")
        if self.unknown:
            parts.append(f"{self.unknown:,} of their tokens are unknown to the tokenizer")
        return ", ".join(parts)
