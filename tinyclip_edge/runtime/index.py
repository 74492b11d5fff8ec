"""Embeddings of a picture collection in one file that knows which model made them."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.runtime.protocol import Features


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; ``score`` is the cosine similarity."""

    key: str
    score: float


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """Keys and float32 ``[N, D]`` unit-norm features, tied to one model by its hash."""

    keys: tuple[str, ...]
    features: Features
    model_hash: str

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.keys) != len(self.features):
            raise DataError(
                f"index: {len(self.keys)} keys do not fit features {list(self.features.shape)}"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def require(self, model_hash: str) -> None:
        """Raise BundleError, naming both hashes, when another model made this index."""
        if self.model_hash != model_hash:
            raise BundleError(
                f"the index was made by model {self.model_hash}, this is {model_hash}; "
                "index the images again with this model"
            )

    def top(self, query: Features, k: int) -> list[Hit]:
        """Return the ``k`` nearest to a unit-norm ``[D]``, best first, ties in stored order."""
        if k < 1:
            raise DataError(f"k must be 1 or more, not {k}")
        scores = self.features @ query
        best = np.argsort(-scores, kind="stable")[:k]
        return [Hit(self.keys[i], float(scores[i])) for i in best]

    def save(self, path: str | Path) -> Path:
        """Write an ``.npz`` without pickles, whole or not at all, and return its path."""
        path = _npz(path)
        keys = np.frombuffer(json.dumps(self.keys).encode(), dtype=np.uint8)
        try:
            handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".index-")
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}") from error
        with os.fdopen(handle, "wb") as file:
            np.savez(file, keys=keys, features=self.features, model_hash=np.array(self.model_hash))
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> ImageIndex:
        """Read what ``save`` wrote; raise DataError when it is missing or something else."""
        path = _npz(path)
        try:
            with np.load(path, allow_pickle=False) as content:
                keys = json.loads(content["keys"].tobytes())
                features = np.asarray(content["features"], dtype=np.float32)
                model_hash = str(content["model_hash"])
        except FileNotFoundError as error:
            raise DataError(f"no such index: {path}") from error
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is no index file: {error}") from error
        return cls(_texts(keys, path), features, model_hash)


def _npz(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def _texts(keys: object, path: Path) -> tuple[str, ...]:
    if not isinstance(keys, Sequence) or not all(isinstance(key, str) for key in keys):
        raise DataError(f"{path} is no index file: its keys are not texts")
    return tuple(keys)
