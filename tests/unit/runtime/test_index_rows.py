"""Rows of an index are chosen, removed and joined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from example_indexes import FEATURES, four_directions, marked_index, random_index

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.index_file import SkippedImage


@pytest.fixture
def index():
    return four_directions()


def test_rows_are_chosen_by_position(index):
    assert index[1:3].keys == ("nördlich", "mid\0dle") == index[[1, 2]].keys
    assert index[[False, True, True, False]].keys == index[np.array([1, -2])].keys
    np.testing.assert_array_equal(index[::-1].features, FEATURES[::-1])
    small = marked_index().compressed()[[1]]
    assert small.keys == ("b\udcff",) and small.metadata == ({},)
    assert small.files["size"].tolist() == [3] and len(small.scales) == 1
    assert len(index[[]]) == 0 and list(index) == list(index.keys) and "east" in index
    for rows, message in (
        (1, r"index\[1\]: use a slice"), ("east", "index.vector"), ([4], "beyond its 4 pictures"),
        ([True], "1 bools do not match 4"), ([0.5], "use a slice"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            index[rows]


def test_pictures_are_removed_and_filtered(index):
    assert index.remove("east").keys == index.keys[1:]
    assert index.remove(["east", "nördlich"]).keys == index.keys[2:]
    assert index.remove([]).keys == index.keys
    with pytest.raises(DataError, match="no picture 'west' to remove"):
        index.remove(["west", "east"])
    assert index.filter(lambda key, _: key.startswith("n")).keys == ("nördlich", "north again")
    marked = marked_index()
    assert marked.filter(album="Grüße").keys == ("a",)
    assert marked.filter(lambda key, entry: key != "a", album="Grüße").keys == ()
    assert index.filter(album=None).keys == ()
    with pytest.raises(DataError, match="no picture 'west'"):
        index.vector("west")


def test_two_indexes_become_one(index):
    other = ImageIndex(
        ("west", "east"), -FEATURES[:2], "abc-int8", errors=(SkippedImage("x", "y"),)
    )
    with pytest.raises(DataError, match="'east' is already in it"):
        index.merge(other)
    first, last = (index.merge(other, on_duplicate=which) for which in ("first", "last"))
    assert first.keys == (*index.keys, "west") and first.vector("east").tolist() == [1, 0]
    assert last.keys == (*index.keys[1:], "west", "east") and first.errors == other.errors
    assert last.vector("east").tolist() == [0, -1]
    with pytest.raises(DataError, match="on_duplicate 'newest'"):
        index.merge(other, on_duplicate="newest")
    with pytest.raises(BundleError, match="made by model"):
        index.merge(replace(other, model_hash="another"))
    joined = marked_index().merge(
        replace(marked_index(), keys=("c", "d"), files=None, metadata=None)
    )
    assert joined.metadata[0]["album"] == "Grüße" and joined.metadata[2:] == ({}, {})
    assert joined.files["size"].tolist() == [1, 3, 0, 0] and len(joined.errors) == 1


def test_an_index_takes_others_in_its_own_form():
    exact, more = (
        random_index(),
        replace(random_index(seed=2), keys=tuple("x" * i for i in range(400))),
    )
    small = exact.compressed(dimensions=16)
    joined = small.merge(more)
    whole = exact.merge(more).compressed(dimensions=16)
    np.testing.assert_array_equal(joined.features, whole.features)
    np.testing.assert_array_equal(joined.scales, whole.scales)
    assert joined.width == 64 and exact.merge(more.compressed()).features.dtype == np.float32
    with pytest.raises(DataError, match="16 dimensions, fewer than 64"):
        exact.merge(replace(small, keys=more.keys))
