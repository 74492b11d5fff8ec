"""Compressed indexes: int8 and fewer dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from example_indexes import four_directions, random_index

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.compress import recall_cost
from tinyclip_edge.runtime.index import Hit, ImageIndex
from tinyclip_edge.runtime.vectors import unit


@pytest.fixture
def index():
    return four_directions()


def test_int8_by_hand():
    index = ImageIndex(("a", "b"), np.array([[1, -0.5], [0, 0]], dtype=np.float32), "x")
    small = index.compressed()
    assert small.features.tolist() == [[127, -64], [0, 0]]  # -63.5 rounds to even
    assert small.scales.tolist() == pytest.approx([1 / 127, 0])
    scores = small.scores(np.array([[0, 1]], dtype=np.float32))
    assert scores.tolist()[0] == pytest.approx([-64 / 127, 0])


def test_int8_costs_little_and_is_a_quarter_of_the_file(tmp_path):
    index = random_index()
    small = index.compressed()
    query = unit(np.random.default_rng(1).standard_normal((50, 64)).astype(np.float32))
    # A step is at most max|x| / 127, its rounding half of that; a unit query sums at most sqrt(D).
    bound = np.abs(index.features).max() / 127 / 2 * 64**0.5
    cost = recall_cost(index, small, query, k=5)
    assert cost.score_error < bound and cost.overlap > 0.95 and cost.same_first > 0.9
    assert cost.bytes_exact == 400 * 64 * 4 and cost.bytes_small == 400 * 64 + 400 * 4
    sizes = [
        one.save(tmp_path / name).stat().st_size
        for name, one in (("exact", index), ("small", small))
    ]
    assert sizes[0] - sizes[1] > 0.7 * cost.bytes_exact
    loaded = ImageIndex.load(tmp_path / "small")
    np.testing.assert_array_equal(loaded.features, small.features)
    assert loaded.top(query[0], 3) == small.top(query[0], 3)


def test_first_dimensions_are_normalised_again(tmp_path):
    index = ImageIndex(("a", "b"), np.array([[0.6, 0.64, 0.48], [0, 0, 1]], np.float32), "x")
    small = index.compressed(dimensions=2, int8=False)
    np.testing.assert_allclose(small.features[0], [0.6 / 0.8773, 0.64 / 0.8773], atol=1e-4)
    query = np.array([0.8, 0, 0.6], dtype=np.float32)  # its first two, made unit: [1, 0]
    assert small.top(query, 1) == [Hit("a", pytest.approx(0.6 / 0.8773, abs=1e-4))]
    assert ImageIndex.load(small.save(tmp_path / "cut")).top(query, 2) == small.top(query, 2)
    both = random_index().compressed(dimensions=16)
    assert both.nbytes == 400 * 16 + 400 * 4 and both.width == 64


def test_recall_cost_by_hand():
    exact = ImageIndex(("a", "b"), np.eye(2, dtype=np.float32), "x")
    swapped = ImageIndex(("a", "b"), np.eye(2, dtype=np.float32)[::-1], "x")
    cost = recall_cost(exact, swapped, np.eye(2, dtype=np.float32), k=1, right=[0, 1])
    assert (cost.same_first, cost.overlap, cost.score_error) == (0, 0, 1)
    assert (cost.recall_exact, cost.recall_small, cost.recall_cost) == (1, 0, 1)
    unknown = recall_cost(exact, exact, np.eye(2, dtype=np.float32), k=9)
    assert unknown.overlap == 1 and unknown.recall_cost is None
    assert unknown.as_dict()["queries"] == 2


def test_what_cannot_be_compressed_or_compared(index):
    for dimensions in (0, 3, -1):
        with pytest.raises(DataError, match="dimensions must be 1 to 2"):
            index.compressed(dimensions=dimensions)
    with pytest.raises(DataError, match="already compressed"):
        index.compressed().compressed()
    query = np.eye(2, dtype=np.float32)
    with pytest.raises(DataError, match="of different pictures or models"):
        recall_cost(index, random_index(4, 2), query)
    with pytest.raises(DataError, match="at least one query"):
        recall_cost(index, index, query[:0])
    with pytest.raises(DataError, match="1 correct pictures for 2"):
        recall_cost(index, index, query, right=[0])
    with pytest.raises(DataError, match="query has 3 dimensions, not 2"):
        index.top(np.zeros(3, np.float32), 1)
