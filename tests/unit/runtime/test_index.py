"""ImageIndex: what it finds, and how it describes itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from example_indexes import FEATURES, four_directions, marked_index, random_index

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.runtime import vectors
from tinyclip_edge.runtime.index import Hit, ImageIndex
from tinyclip_edge.runtime.vectors import unit


@pytest.fixture
def index():
    return four_directions()


def test_best_first_and_ties_in_stored_order(index):
    query = np.array([0, 1], dtype=np.float32)
    assert index.top(query, 3) == [
        Hit("nördlich", 1.0),
        Hit("north again", 1.0),
        Hit("mid\0dle", pytest.approx(0.8)),
    ]
    assert len(index.top(query, 99)) == 4
    for k in (0, -1, 1.5, None):
        with pytest.raises(DataError, match=f"k must be 1 or more, a whole number, not {k}"):
            index.top(query, k)
    assert len(index.top(query, np.int64(2))) == 2
    with pytest.raises(DataError, match="min_score must be a finite number, not nan"):
        index.top(query, 1, min_score=math.nan)


def test_a_short_description(index):
    assert repr(index) == "ImageIndex(4 images, 2 dimensions, float32, model abc-int8)"
    assert repr(marked_index().compressed()) == (
        "ImageIndex(2 images, 3 dimensions, int8, 1 skipped, model abc-int8)"
    )
    assert repr(index[:1]).startswith("ImageIndex(1 image, ")
    assert len(repr(random_index())) < 80


def test_the_best_of_many_equal_scores_are_in_stored_order():
    features = np.tile(np.array([[0.6, 0.8], [1, 0]], np.float32), (500, 1))
    index = ImageIndex(tuple(map(str, range(1000))), features, "x")
    hits = index.top(np.array([1, 0], np.float32), 7)
    assert [hit.key for hit in hits] == [str(i) for i in range(1, 15, 2)]
    hits = index.top(np.array([1, 0], np.float32), 503)
    assert [hit.key for hit in hits][498:] == ["997", "999", "0", "2", "4"]


def test_many_rows_are_scored_in_parts(monkeypatch):
    index = random_index(50).compressed()
    query = unit(np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32))
    scores = index.scores(query)
    monkeypatch.setattr(vectors, "ROWS", 7)
    np.testing.assert_allclose(index.scores(query), scores, atol=1e-7)
    assert index.scores(query).shape == (3, 50)


def test_an_empty_index():
    empty = ImageIndex((), np.empty((0, 4), np.float32), "x")
    for one in (empty, empty.compressed()):
        assert one.top(np.zeros(4, np.float32), 3) == []


def test_another_models_index_names_both_hashes(index):
    with pytest.raises(BundleError, match=r"abc-int8.*xyz-fp32"):
        index.require("xyz-fp32")


def test_keys_and_features_must_fit():
    with pytest.raises(DataError, match="3 keys do not match"):
        ImageIndex(("a", "b", "c"), FEATURES, "x")
