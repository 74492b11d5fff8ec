"""Hashed n-grams of many texts at once: words and their neighbours as bucket numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Buckets = npt.NDArray[np.uint32]

NO_WORD, LETTER, IDEOGRAPH = 0, 1, 2  # kinds of characters; an ideograph is a word by itself
WORD_CATEGORIES = "LMN"  # letters, marks, numbers
IDEOGRAPHS = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
SEPARATOR = "\n"
LONGEST_TEXT = 4096  # characters of a text that are hashed

# BASE is odd, so it has an inverse modulo 2^64; the other numbers are splitmix64's.
BASE = 0x9E3779B97F4A7C15
INVERSE = pow(BASE, -1, 1 << 64)
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Hashing(NamedTuple):
    """How texts become numbers."""

    buckets: int = 1 << 16
    longest: int = 2  # words of the longest n-gram


class HashedTexts(NamedTuple):
    """The n-grams of N texts, one text after the other; duplicates are included."""

    ids: Buckets  # [T]
    ends: Ints  # [N], of each text in ``ids``


def hashed_texts(texts: Sequence[str], hashing: Hashing) -> HashedTexts:
    """Return the buckets of all n-grams of words, which are compared in NFKC and without case.

    Words include numbers and combining marks, but no punctuation. Only the first 4,096 characters
    of a text count.
    """
    joined = SEPARATOR.join(text[:LONGEST_TEXT].replace(SEPARATOR, " ") for text in texts)
    joined = unicodedata.normalize("NFKC", joined).casefold()
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    words, text_of = _words(codes)
    grams = np.zeros((len(words), hashing.longest), np.uint64)
    valid = np.zeros((len(words), hashing.longest), bool)
    gram = words
    for length in range(hashing.longest):
        if length:
            gram = _mixed(gram[: len(words) - length] * np.uint64(BASE) + words[length:])
        size = max(0, len(words) - length)
        grams[:size, length] = gram[:size]
        valid[:size, length] = text_of[length:] == text_of[:size]
    counts = np.bincount(text_of, valid.sum(axis=1), len(texts)).astype(np.int64)
    ids = (grams[valid] % np.uint64(hashing.buckets)).astype(np.uint32)
    return HashedTexts(ids, np.cumsum(counts))


def _words(codes: npt.NDArray[np.uint32]) -> tuple[Hashes, Ints]:
    """Return the hash of each word, and the number of its text."""
    kinds = _kinds()[codes]
    letters, alone = kinds == LETTER, kinds == IDEOGRAPH
    before = np.concatenate([[False], letters[:-1]])
    after = np.concatenate([letters[1:], [False]])
    starts = np.flatnonzero(letters & ~before | alone)
    ends = np.flatnonzero(letters & ~after | alone) + 1
    powers, inverses = _powers(1 << max(1, len(codes) - 1).bit_length())
    # A polynomial of each word's characters: the difference of two running sums over all of them.
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    words = _mixed((sums[ends] - sums[starts]) * inverses[starts])
    text_of = np.cumsum(codes == ord(SEPARATOR))[starts]
    return words, text_of.astype(np.int64)


def _mixed(values: Hashes) -> Hashes:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(MIX_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(MIX_2)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed


@lru_cache(maxsize=1)
def _kinds() -> npt.NDArray[np.uint8]:
    """Return the kind of every character."""
    categories = (unicodedata.category(chr(code))[0] for code in range(0x110000))
    letters = [category in WORD_CATEGORIES for category in categories]
    kinds = np.array(letters, np.uint8)
    for first, last in IDEOGRAPHS:
        kinds[first : last + 1] *= IDEOGRAPH
    return kinds


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Return the powers 0 … of BASE and of its inverse, modulo 2^64."""
    factors = np.full(count, BASE, np.uint64), np.full(count, INVERSE, np.uint64)
    for each in factors:
        each[0] = 1
    return np.cumprod(factors[0]), np.cumprod(factors[1])
