from __future__ import annotations

import math

import numpy as np
import pytest

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation.ranking import any_hit_at, hits_at, standard_error


def hits(scores, targets, k):
    return hits_at(np.array(scores, dtype=np.float32), np.array(targets), k).tolist()


def test_without_ties():
    scores = [[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.2, 0.3, 0.1]]
    assert hits(scores, [0, 2, 2], 1) == [1, 0, 0]
    assert hits(scores, [0, 2, 2], 2) == [1, 1, 0]
    assert hits(scores, [0, 2, 2], 3) == [1, 1, 1]


def test_ties_are_the_chance_of_a_random_order():
    scores = [[0.5, 0.5, 0.5, 0.5], [0.9, 0.5, 0.5, 0.1]]
    assert hits(scores, [2, 1], 1) == [0.25, 0]
    assert hits(scores, [2, 1], 2) == [0.5, 0.5]
    assert hits(scores, [2, 1], 3) == [0.75, 1]


def test_equal_but_for_the_last_bit_is_a_tie():
    above = np.nextafter(np.float32(0.5), np.float32(1))
    assert hits([[0.5, above]], [0], 1) == [0.5]


def test_ties_against_a_simulation():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (1, 9)).astype(np.float32)
    won = 0
    for _ in range(20_000):
        order = np.lexsort((rng.random(9), -scores[0]))
        won += 4 in order[:3]
    assert hits(scores, [4], 3)[0] == pytest.approx(won / 20_000, abs=0.015)


def test_standard_error_by_formula():
    assert standard_error(0.2, 400) == pytest.approx(0.02)
    assert standard_error(1.0, 7) == 0.0
    spread = math.sqrt(np.var([1, 1, 0, 0, 0]) / 5)
    assert standard_error(0.4, 5) == pytest.approx(spread)


def test_scores_that_are_not_numbers_are_an_error():
    scores = np.eye(3, dtype=np.float32)
    scores[1, 1] = np.nan
    right = np.eye(3, dtype=bool)
    for measure in (lambda: hits_at(scores, np.arange(3), 1), lambda: any_hit_at(scores, right, 1)):
        with pytest.raises(DataError, match="not finite numbers"):
            measure()
