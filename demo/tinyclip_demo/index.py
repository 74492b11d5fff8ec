"""Features of a gallery, one model's, filled batch by batch and kept on disk."""

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
    """Where indexes are kept: the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "tinyclip-edge" / "demo-indexes"


class GalleryIndex:
    """One model's features of a gallery; made by ``GalleryIndex.open``."""

    def __init__(self, gallery: Gallery, model: Embedder) -> None:
        self.gallery = gallery
        self.model = model
        width = model.spec.embedding_dim
        self.features: Features = np.zeros((len(gallery), width), dtype=np.float32)
        self.readable = np.zeros(len(gallery), dtype=bool)
        self.done = 0
        self.seconds = 0.0
        self.from_disk = False

    @classmethod
    def open(cls, gallery: Gallery, model: Embedder, folder: Path | None) -> GalleryIndex:
        """Return an index, full if the folder holds this gallery's of this model."""
        index = cls(gallery, model)
        file = index.file(folder)
        if file is not None and file.is_file():
            index._read(file)
        return index

    @property
    def complete(self) -> bool:
        """Whether every picture was tried."""
        return self.done >= len(self.gallery)

    def file(self, folder: Path | None) -> Path | None:
        """Where it is kept; None for a gallery that cannot be told from others."""
        if folder is None or self.gallery.mark is None:
            return None
        mark = f"{model_mark(self.model)} {self.gallery.mark}"
        name = hashlib.sha256(mark.encode()).hexdigest()[:32]
        return folder / f"{name}.npz"

    def keep(self, folder: Path | None) -> None:
        """Write the full index; a disk that is full or read-only costs time, no answer."""
        file = self.file(folder)
        if file is None or self.from_disk:
            return
        rows = np.flatnonzero(self.readable)
        kept = ImageIndex(tuple(str(row) for row in rows), self.features[rows], file.stem)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            kept.save(file)
        except (OSError, TinyClipError):
            return

    def encode_batch(self) -> bool:
        """Encode the next pictures, those that decode; return whether the index is full."""
        start, stop = self.done, min(self.done + INDEX_BATCH, len(self.gallery))
        began = time.perf_counter()
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
        self.seconds += time.perf_counter() - began
        self.done = stop
        return self.complete

    def scores(self, query: Features) -> Features:
        """Cosine similarities ``[N]``; minus infinity for pictures that did not decode."""
        return np.where(self.readable, self.features @ query, -np.inf).astype(np.float32)

    def _read(self, file: Path) -> None:
        began = time.perf_counter()
        try:
            kept = ImageIndex.load(file)
            kept.require(file.stem)
            rows = [int(key) for key in kept.keys]
            self.features[rows] = kept.features
            self.readable[rows] = True
        # A file of another version, or a broken one, is written anew.
        except (TinyClipError, ValueError, IndexError):
            return
        self.done, self.from_disk = len(self.gallery), True
        self.seconds = time.perf_counter() - began


def model_mark(model: Embedder) -> str:
    """Hash of a bundle, or of what any other model makes of two pictures and a text.

    Weights can lie in many places and forms; what a model answers says which it is.
    """
    known = getattr(model, "model_hash", None)
    if known is not None:
        return str(known)
    drawn = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(array) for array in drawn]
    answers = np.concatenate([model.encode_image(pictures), model.encode_text(["a red bicycle"])])
    # Coarser than what another number of threads changes, finer than a training step.
    return hashlib.sha256(np.round(answers * 1e4).astype(np.int32).tobytes()).hexdigest()
