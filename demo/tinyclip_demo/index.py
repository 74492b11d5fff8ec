"""One model's features of a gallery, filled batch by batch and stored on disk."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tinyclip_demo.gallery import Gallery
from tinyclip_edge.errors import DataError, TinyClipError
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.protocol import Embedder, Features

INDEX_BATCH = 32


def default_index_folder() -> Path:
    """Return the folder for indexes in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "tinyclip-edge" / "demo-indexes"


class GalleryIndex:
    """One model's features of a gallery; use ``GalleryIndex.open``."""

    def __init__(self, gallery: Gallery, model: Embedder) -> None:
        self.gallery = gallery
        self.model = model
        width = model.spec.embedding_dim
        self.features: Features = np.zeros((len(gallery), width), dtype=np.float32)
        self.readable = np.zeros(len(gallery), dtype=bool)
        self.encoded = 0
        self.seconds = 0.0
        self.from_disk = False

    @classmethod
    def open(cls, gallery: Gallery, model: Embedder, folder: Path | None) -> GalleryIndex:
        """Return an index, already complete if the folder holds one for this gallery and model."""
        index = cls(gallery, model)
        file = index.file(folder)
        if file is not None and file.is_file():
            index._read(file)
        return index

    @property
    def complete(self) -> bool:
        """Whether every picture was processed."""
        return self.encoded >= len(self.gallery)

    def file(self, folder: Path | None) -> Path | None:
        """Return the path of the stored index; None for a gallery without a fingerprint."""
        if folder is None or self.gallery.fingerprint is None:
            return None
        fingerprint = f"{model_fingerprint(self.model)} {self.gallery.fingerprint}"
        name = hashlib.sha256(fingerprint.encode()).hexdigest()[:32]
        return folder / f"{name}.npz"

    def save(self, folder: Path | None) -> None:
        """Store the complete index; a full or read-only disk is ignored."""
        file = self.file(folder)
        if file is None or self.from_disk:
            return
        rows = np.flatnonzero(self.readable)
        stored = ImageIndex(tuple(str(row) for row in rows), self.features[rows], file.stem)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stored.save(file)
        except (OSError, TinyClipError):
            return

    def encode_batch(self) -> bool:
        """Encode the next batch, skipping broken pictures; return whether the index is complete."""
        start, stop = self.encoded, min(self.encoded + INDEX_BATCH, len(self.gallery))
        start_time = time.perf_counter()
        rows, pictures = [], []
        for row in range(start, stop):
            try:
                pictures.append(self.gallery.picture(row))
            except DataError:
                continue
            rows.append(row)
        if rows:
            self.features[rows] = self.model.encode_image(pictures)
            self.readable[rows] = True
        self.seconds += time.perf_counter() - start_time
        self.encoded = stop
        return self.complete

    def scores(self, query: Features) -> Features:
        """Return cosine similarities ``[N]``; minus infinity for broken pictures."""
        return np.where(self.readable, self.features @ query, -np.inf).astype(np.float32)

    def _read(self, file: Path) -> None:
        start_time = time.perf_counter()
        try:
            stored = ImageIndex.load(file)
            stored.require(file.stem)
            rows = [int(key) for key in stored.keys]
            self.features[rows] = stored.features
            self.readable[rows] = True
        # A broken file, or one of another version, is overwritten later.
        except (TinyClipError, ValueError, IndexError):
            return
        self.encoded, self.from_disk = len(self.gallery), True
        self.seconds = time.perf_counter() - start_time


def model_fingerprint(model: Embedder) -> str:
    """Return a bundle's hash; for other models, a hash of their features for fixed inputs.

    Weights can come from many places and formats, whereas features identify the model.
    """
    model_hash = getattr(model, "model_hash", None)
    if model_hash is not None:
        return str(model_hash)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(array) for array in pixels]
    features = np.concatenate([model.encode_image(pictures), model.encode_text(["a red bicycle"])])
    # Rounding hides differences between thread counts, but not those of a training step.
    return hashlib.sha256(np.round(features * 1e4).astype(np.int32).tobytes()).hexdigest()
