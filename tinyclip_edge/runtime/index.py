"""Embeddings of a picture collection, stored in one file with the hash of their model."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.paths import expanded
from tinyclip_edge.runtime.index_file import IndexContent, read_index, write_index
from tinyclip_edge.runtime.protocol import Features

Codes: TypeAlias = npt.NDArray[np.int8]

_ROWS = 8192  # int8 rows converted to float at a time, to bound memory
_STEPS = 127  # of an int8 on either side of zero


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; ``score`` is the cosine similarity."""

    key: str
    score: float


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """Keys and unit-norm features of pictures, tied to one model by its hash.

    ``features``: float32 ``[N, D]``, or int8 with one float32 scale a picture in ``scales``.
    ``width``: dimensions of the model's embeddings, where the index has only the first D of them.
    """

    keys: tuple[str, ...]
    features: Features | Codes
    model_hash: str
    scales: Features | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        shape = self.features.shape
        if self.features.ndim != 2 or len(self.keys) != len(self.features):
            raise DataError(f"index: {len(self.keys)} keys do not match features {list(shape)}")
        coded = self.features.dtype == np.int8
        if coded != (self.scales is not None):
            raise DataError(
                "index: int8 features need scales, and other features must not have them"
            )
        if self.scales is not None and self.scales.shape != (len(self.keys),):
            raise DataError(f"index: {len(self.keys)} keys do not match {len(self.scales)} scales")
        if self.width is not None and self.width < shape[1]:
            raise DataError(f"index: {shape[1]} dimensions are more than the model's {self.width}")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of the features in memory and in the file."""
        return self.features.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def require(self, model_hash: str) -> None:
        """Raise BundleError, naming both hashes, when another model made this index."""
        if self.model_hash != model_hash:
            raise BundleError(
                f"the index was made by model {self.model_hash}, but this is {model_hash}; index "
                "the images again with this model"
            )

    def scores(self, queries: Features) -> Features:
        """Return float32 ``[Q, N]`` cosines of unit-norm ``[Q, D]``.

        Raise DataError for queries of another width.
        """
        dimensions = self.features.shape[1]
        width = self.width or dimensions
        if queries.ndim != 2 or queries.shape[1] != width:
            raise DataError(f"index: a query has {queries.shape[-1]} dimensions, not {width}")
        if width > dimensions:
            queries = unit(queries[:, :dimensions])
        if self.scales is None:
            return np.asarray(queries @ self.features.T, dtype=np.float32)
        parts = [
            queries @ self.features[start : start + _ROWS].astype(np.float32).T
            for start in range(0, len(self), _ROWS)
        ]
        empty = np.empty((len(queries), 0), np.float32)
        return np.asarray(np.concatenate([empty, *parts], axis=1) * self.scales, dtype=np.float32)

    def top(self, query: Features, k: int) -> list[Hit]:
        """Return the ``k`` nearest to a unit-norm ``[D]``, nearest first, ties in stored order."""
        if k < 1:
            raise DataError(f"k must be 1 or more, not {k}")
        scores = self.scores(query[None])[0]
        best = np.argsort(-scores, kind="stable")[:k]
        return [Hit(self.keys[i], float(scores[i])) for i in best]

    def compressed(self, *, dimensions: int | None = None, int8: bool = True) -> ImageIndex:
        """Return a smaller index of the same pictures; `compress.recall_cost` measures its loss.

        ``dimensions`` truncates the vectors to that many and normalises them again. ``int8``
        rounds each vector to 127 steps on either side of zero, with its own scale, so that no
        picture depends on the others. Raise DataError for more dimensions than the index has, or
        when it is int8 already.
        """
        full = self.features.shape[1]
        if self.scales is not None:
            raise DataError("index: it is already compressed; compress the original one")
        if dimensions is not None and not 1 <= dimensions <= full:
            raise DataError(f"index: dimensions must be 1 to {full}, not {dimensions}")
        vectors = np.asarray(self.features, dtype=np.float32)
        width = self.width
        if dimensions is not None and dimensions < full:
            vectors, width = unit(vectors[:, :dimensions]), width or full
        if not int8:
            return ImageIndex(self.keys, vectors, self.model_hash, width=width)
        scales = np.abs(vectors).max(axis=1, initial=0) / _STEPS
        codes = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
        return ImageIndex(self.keys, codes, self.model_hash, scales.astype(np.float32), width)

    def save(self, path: str | Path) -> Path:
        """Write an ``.npz`` without pickles atomically, and return its path."""
        path = _npz(path)
        try:
            handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".index-")
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}") from error
        with os.fdopen(handle, "wb") as file:
            write_index(
                file,
                IndexContent(self.keys, self.features, self.model_hash, self.scales, self.width),
            )
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> ImageIndex:
        """Read a file of ``save``; raise DataError if it is missing or not an index."""
        path = _npz(path)
        content = read_index(path)
        try:
            return cls(
                content.keys, content.features, content.model_hash, content.scales, content.width
            )
        except DataError as error:
            raise DataError(f"{path} is not an index file: {error}") from error


def unit(vectors: Features) -> Features:
    """Return the rows of ``[N, D]`` at unit norm; a row of zeros is returned unchanged."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norm > 0, norm, 1), dtype=np.float32)


def _npz(path: str | Path) -> Path:
    path = Path(expanded(path))
    return path if path.suffix.lower() == ".npz" else path.with_name(path.name + ".npz")
