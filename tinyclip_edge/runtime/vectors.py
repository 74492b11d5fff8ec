"""Arithmetic of embeddings in rows: unit norm, int8, cosines, the nearest."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.runtime.protocol import Features

Codes: TypeAlias = npt.NDArray[np.int8]

ROWS = 8192  # converted to aligned floats at a time, to bound memory
_STEPS = 127  # of an int8 on either side of zero


def unit(vectors: Features) -> Features:
    """Return the rows of ``[N, D]`` at unit norm; a row of zeros is returned unchanged."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norm > 0, norm, 1), dtype=np.float32)


def int8_codes(vectors: Features) -> tuple[Codes, Features]:
    """Return ``[N, D]`` as int8 of 127 steps on either side of zero, and the scales ``[N]``."""
    scales = np.abs(vectors).max(axis=1, initial=0) / _STEPS
    codes = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
    return codes, scales.astype(np.float32)


def cosines(queries: Features, features: npt.NDArray[Any], scales: Features | None) -> Features:
    """Return float32 ``[Q, N]`` products of ``[Q, D]`` with rows in float or int8."""
    products = np.empty((len(queries), len(features)), np.float32)
    for start in range(0, len(features), ROWS):
        part = np.asarray(features[start : start + ROWS], np.float32)
        products[:, start : start + ROWS] = queries @ part.T
    return products if scales is None else np.asarray(products * scales, np.float32)


def best_rows(scores: Features, k: int) -> npt.NDArray[np.intp]:
    """Return the rows of the ``k`` largest scores, largest first, ties in their order."""
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    # All that reach the k-th largest; a stable sort leaves ties in their order.
    rows = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]
