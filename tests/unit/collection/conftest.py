"""A collection of pictures and a model for it."""

from __future__ import annotations

import pytest
from colour_model import MeanColour, paint


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
