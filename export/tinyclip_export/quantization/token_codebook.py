"""A token table in 2.7 bits per value: product quantization, one byte for three values of a row.

Each group of three columns has a codebook of 256 triples (Jégou et al. 2011), made by k-means. The
row's later values compensate for what a byte cannot express, as in block_rounding.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_export.quantization.block_rounding import Matrix

Points: TypeAlias = npt.NDArray[np.float32]

TRIPLE = 3  # values per byte
WORDS = 256
SAMPLE = 8192  # rows on which codebooks are made
ROUNDS = 10  # of k-means
CHUNK = 16384  # rows at a time


@dataclass(frozen=True, slots=True)
class CodebookTable:
    """Rows ``[V, W]`` as codes ``[V, G]``, codebooks ``[G, words, 3]`` and scales ``[V, 1]``."""

    codes: npt.NDArray[np.uint8]
    words: npt.NDArray[np.float16]
    scales: npt.NDArray[np.float16]
    width: int  # W; 3 G may be larger by one or two

    def dequantized(self) -> Points:
        """Return the float rows ``[V, W]``."""
        groups = np.arange(self.codes.shape[1])
        triples = self.words[groups, self.codes].astype(np.float32)
        rows = triples.reshape(len(self.codes), -1)[:, : self.width]
        return rows * self.scales.astype(np.float32)


def codebook_table(table: Points, feedback: Matrix) -> CodebookTable:
    """Quantize rows ``[V, W]``; ``feedback``, ``[W, W]``, is the triangle of `error_feedback`."""
    count, width = table.shape
    groups = -(-width // TRIPLE)
    padding = groups * TRIPLE - width
    triangle = np.eye(width + padding)  # the padding affects no other columns
    triangle[:width, :width] = feedback
    scales = np.sqrt(np.square(table).mean(axis=1, keepdims=True)).astype(np.float16)
    divisors = np.where(scales == 0.0, 1.0, scales).astype(np.float32)  # zero rows stay zero
    rest = np.pad(table / divisors, ((0, 0), (0, padding)))
    chosen = np.random.default_rng(0).permutation(count)[:SAMPLE]
    codes = np.empty((count, groups), np.uint8)
    words = np.zeros((groups, WORDS, TRIPLE), np.float16)
    for group in range(groups):
        start, stop = group * TRIPLE, (group + 1) * TRIPLE
        corner = triangle[start:stop, start:stop]
        # In these coordinates all directions of an error cost the same.
        points = (rest[:, start:stop] @ np.linalg.inv(corner)).astype(np.float32)
        centres = k_means(points[chosen])
        exact = (centres @ corner).astype(np.float16)
        words[group, : len(centres)] = exact
        codes[:, group] = nearest(points, centres)
        errors = rest[:, start:stop] - exact.astype(np.float32)[codes[:, group]]
        later = (np.linalg.inv(corner) @ triangle[start:stop, stop:]).astype(np.float32)
        rest[:, stop:] -= errors @ later
    return CodebookTable(codes, words, scales, width)


def k_means(points: Points) -> Points:
    """Return at most 256 centres ``[C, 3]`` of ``[N, 3]``, starting from the first points."""
    centres: Points = points[:WORDS].copy()
    for _ in range(ROUNDS):
        labels = nearest(points, centres)
        sizes = np.bincount(labels, minlength=len(centres))
        sums = [np.bincount(labels, column, len(centres)) for column in points.T]
        filled = sizes > 0
        centres[filled] = (np.stack(sums, axis=1)[filled] / sizes[filled, None]).astype(np.float32)
    return centres


def nearest(points: Points, centres: Points) -> npt.NDArray[np.int64]:
    """Return the index of the nearest centre of each point."""
    half = np.square(centres).sum(axis=1) / 2
    parts = [
        (points[start : start + CHUNK] @ centres.T - half).argmax(axis=1)
        for start in range(0, len(points), CHUNK)
    ]
    return np.concatenate(parts)
