"""The largest of a great many numbers on disk, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Blocks = Callable[[], Iterable[Doubles]]

DIGIT = 16  # bits decided in each pass
SIGN = np.uint64(1 << 63)


class Threshold(NamedTuple):
    """What separates the largest numbers from the others."""

    word: int  # the smallest of the largest, as ``_words`` orders numbers
    equal: int  # how many numbers equal to it count as largest: the first ones

    def chosen(self, block: Doubles, before: int) -> tuple[npt.NDArray[np.bool_], int]:
        """Return which numbers of a block are among the largest.

        ``before``: numbers of earlier blocks that equal the threshold; the second result adds those
        of this one.
        """
        words = _words(block)
        ties = words == np.uint64(self.word)
        order = before + np.cumsum(ties)
        mask = (words > np.uint64(self.word)) | (ties & (order <= self.equal))
        return mask, before + int(ties.sum())


def threshold_of(blocks: Blocks, count: int) -> Threshold:
    """Return the threshold of the ``count`` largest of at least as many numbers, in four passes."""
    prefix, left = 0, count
    for shift in range(64 - DIGIT, -1, -DIGIT):
        histogram = np.zeros(1 << DIGIT, np.int64)
        for block in blocks():
            words = _words(block)
            if shift + DIGIT < 64:
                words = words[words >> np.uint64(shift + DIGIT) == np.uint64(prefix)]
            digits = (words >> np.uint64(shift)) & np.uint64((1 << DIGIT) - 1)
            histogram += np.bincount(digits.astype(np.int64), minlength=1 << DIGIT)
        larger = np.concatenate([np.cumsum(histogram[::-1])[::-1][1:], [0]])
        digit = int(np.flatnonzero(larger < left)[0])
        left -= int(larger[digit])
        prefix = prefix << DIGIT | digit
    return Threshold(prefix, left)


def _words(block: Doubles) -> Words:
    """Return the numbers as unsigned integers in the same order."""
    bits = (block + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    return np.where(bits & SIGN, ~bits, bits | SIGN)
