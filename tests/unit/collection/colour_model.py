"""A model of arithmetic, the mean colour made unit, and checks of an index that it made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.indexing import PictureEncoder
from tinyclip_edge.runtime.preprocess import Preprocess
from tinyclip_edge.runtime.vectors import unit


@dataclass
class MeanColour:
    """What ``index_folders`` needs of an EdgeCLIP, without onnxruntime's threads."""

    folder: Path
    model_hash: str = "mean-int8"
    batch: int = 4
    embedded: int = 0
    decode: str = "exact"

    def decoding(self, mode):
        self.decode = mode
        return self

    @property
    def manifest(self):
        return SimpleNamespace(embedding_dim=3)

    def picture_encoder(self):
        preprocess = Preprocess(8, 8, mean=(0.5, 0.4, 0.3), std=(1, 1, 1), decode=self.decode)

        def tower(pixels):
            self.embedded += len(pixels)
            return unit(pixels.mean(axis=(2, 3)))

        return PictureEncoder(preprocess, tower, self.batch, width=3, threads=2)


def paint(path, *colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), colour).save(path)
    return str(path)


def expected(colour):
    """The unit mean of a picture of one colour, recomputed in float64."""
    vector = np.array(colour, dtype=np.float64) / 255 - [0.5, 0.4, 0.3]
    return vector / np.linalg.norm(vector)


def counts(report):
    names = ("unchanged", "new", "changed", "moved", "deleted")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def check_rows(path):
    """Every row is the embedding of its file as it is now, and no key appears twice."""
    index = ImageIndex.load(path)
    assert len(set(index.keys)) == len(index)
    for key in index:
        with Image.open(key) as image:
            colour = image.convert("RGB").getpixel((0, 0))
        np.testing.assert_allclose(index.vector(key), expected(colour), atol=0.006)
        stamp = index[[index.keys.index(key)]].files[0]
        stat = Path(key).stat()
        assert (stamp["size"], stamp["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
    return index


def names(folder):
    """What is in a folder."""
    return sorted(os.listdir(folder))  # noqa: PTH208 - names
