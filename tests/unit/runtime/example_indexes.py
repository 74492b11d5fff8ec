"""Small indexes of several kinds."""

from __future__ import annotations

import numpy as np

from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.index_file import FILE_STAMP, SkippedImage
from tinyclip_edge.runtime.vectors import unit

FEATURES = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 1]], dtype=np.float32)


def four_directions():
    return ImageIndex(("east", "nördlich", "mid\0dle", "north again"), FEATURES, "abc-int8")


def random_index(count=400, width=64, seed=0):
    rng = np.random.default_rng(seed)
    features = unit(rng.standard_normal((count, width)).astype(np.float32))
    return ImageIndex(tuple(map(str, range(count))), features, "abc-int8")


def marked_index():
    """An index with everything that a file can hold."""
    files = np.array([(1, 2, range(16)), (3, 4, [255] * 16)], FILE_STAMP)
    return ImageIndex(
        ("a", "b\udcff"),
        np.eye(2, 3, dtype=np.float32),
        "abc-int8",
        metadata=({"album": "Grüße", "stars": [1, 2.5, None]}, {}),
        errors=(SkippedImage("c", "is broken"),),
        files=files,
        bundle="/bundles/one",
    )
