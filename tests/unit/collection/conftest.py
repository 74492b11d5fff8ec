"""A collection of pictures and a model for it."""

from __future__ import annotations

import pytest
from colour_model import MeanColour, paint

from pair_shards import toy_samples, write_shard
from tinyclip_edge import EdgeCLIP


@pytest.fixture
def model(tmp_path):
    return MeanColour(tmp_path / "bundle")


@pytest.fixture
def photos(tmp_path):
    """Ten pictures of one colour each, in two folders."""
    root = tmp_path / "photos"
    for number in range(10):
        paint(root / ("2019" if number < 4 else "2020") / f"{number}.png", 25 * number, 99, 7)
    return root


@pytest.fixture
def clip(shared_tiny_bundle):
    """The tiny bundle, opened."""
    return EdgeCLIP.load(shared_tiny_bundle.folder)


@pytest.fixture
def shards(tmp_path):
    """Three shards of sixteen pairs, two captions each."""
    samples = toy_samples()
    return [
        write_shard(tmp_path / "data" / f"{number}.tar", samples[16 * number : 16 * number + 16])
        for number in range(3)
    ]
