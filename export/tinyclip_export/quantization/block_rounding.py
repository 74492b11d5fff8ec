"""Round weights to 4 bits so that outputs change least (GPTQ, arXiv 2210.17323), in float64.

Input channels are rounded one after another. The channels that are not rounded yet are adjusted to
compensate, as far as possible, for the change in the outputs on the calibration inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Matrix: TypeAlias = npt.NDArray[np.float64]

LEAST, MOST = -8, 7  # the negative side has one more step
SHRINKS = np.linspace(0.6, 1.0, 17)  # clipping factors tried for each scale


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """A weight ``[K, N]`` as integers ``[K, N]`` in -8..7, and scales ``[ceil(K / block), N]``."""

    values: npt.NDArray[np.int8]
    scales: Matrix
    block: int  # input channels that share a scale

    def dequantized(self) -> Matrix:
        """Return the float weight ``[K, N]``."""
        rows = np.repeat(self.scales, self.block, axis=0)[: len(self.values)]
        return self.values * rows


def error_feedback(moments: Matrix, damping: float) -> Matrix:
    """Return the upper triangle ``[K, K]`` with which later channels compensate for errors.

    ``moments``: second moments of the inputs, in any unit. The mean of their diagonal times
    ``damping`` is added to the diagonal, so that fewer inputs than channels suffice. For an error e
    of channel i, in units of ``[i, i]``, each later channel j is reduced by ``e * [i, j]``.
    """
    mean = float(np.trace(moments)) / len(moments)
    damped = moments + (damping * mean if mean > 0.0 else 1.0) * np.eye(len(moments))
    triangle: Matrix = np.linalg.cholesky(np.linalg.inv(damped)).T
    return triangle


def round_blocks(weight: Matrix, feedback: Matrix, block: int) -> BlockWeight:
    """Round ``[K, N]`` with the triangle of `error_feedback`; ``block`` channels share a scale."""
    rest = weight.astype(np.float64)
    channels, outputs = rest.shape
    values = np.empty((channels, outputs), np.int8)
    scales = np.empty((-(-channels // block), outputs))
    for number, start in enumerate(range(0, channels, block)):
        stop = min(start + block, channels)
        part, rows = feedback[start:stop, start:stop], rest[start:stop]
        errors = np.empty_like(rows)
        scale = scales[number] = best_scales(rows, np.diag(part) ** -2)
        for i, row in enumerate(rows):
            integers = values[start + i] = _rounded(row, scale)
            errors[i] = (row - scale * integers) / part[i, i]
            rows[i + 1 :] -= np.outer(part[i, i + 1 :], errors[i])
        rest[stop:] -= feedback[start:stop, stop:].T @ errors
    return BlockWeight(values, scales, block)


def best_scales(rows: Matrix, importance: Matrix) -> Matrix:
    """Return for each column of ``[B, N]`` the scale with the least weighted squared error.

    ``importance``, ``[B]``, weighs the rows. A scale maps the value of largest magnitude to -8 or
    below; a column of zeros has the scale 1.
    """
    extreme = np.take_along_axis(rows, np.abs(rows).argmax(0)[None], 0)[0]
    widest: Matrix = extreme / LEAST
    widest[widest == 0.0] = 1.0
    scales: Matrix = widest.copy()
    least = np.full(rows.shape[1], np.inf)
    for shrink in SHRINKS:
        candidate = widest * shrink
        error = importance @ np.square(rows - candidate * _rounded(rows, candidate))
        better = error < least
        least[better], scales[better] = error[better], candidate[better]
    return scales


def _rounded(rows: Matrix, scales: Matrix) -> Matrix:
    integers: Matrix = np.clip(np.round(rows / scales), LEAST, MOST)
    return integers
