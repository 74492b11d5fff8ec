"""An epoch shows every picture once, and no batch a concept twice."""

from __future__ import annotations

import numpy as np
import pytest

from tinyclip_edge.data.order import distinct_epoch, distinct_slots


def arranged(counts, size, seed=0):
    concept_of = np.repeat(np.arange(len(counts)), counts)
    concept_of = np.random.default_rng(seed).permutation(concept_of)
    epoch = distinct_epoch(concept_of, size, np.random.default_rng(seed))
    assert epoch.shape == (distinct_slots(concept_of, size), size)
    for row in epoch:
        assert len(set(concept_of[row])) == size
    return concept_of, epoch


@pytest.mark.parametrize("seed", range(5))
def test_every_picture_comes_once_where_it_can(seed):
    counts = np.random.default_rng(seed).integers(1, 12, 400)
    counts[0] += -counts.sum() % 32
    _, epoch = arranged(counts, 32, seed)
    assert epoch.size == counts.sum() == len(np.unique(epoch))


def test_a_concept_of_too_many_pictures_is_in_every_batch_once():
    # 10 batches of 8 at first; 50 pictures of one concept leave 10 + 30 places: 5 batches.
    concept_of, epoch = arranged([50] + [1] * 30, 8)
    assert len(epoch) == 5
    assert all((concept_of[row] == 0).sum() <= 1 for row in epoch)


def test_where_concepts_run_short_pictures_come_twice():
    concept_of, epoch = arranged([20, 20, 20, 1], 4)
    assert len(epoch) == 11  # 15 at most by 61 pictures, of which 46 can have a place
    assert all((concept_of[row] == 3).sum() == 1 for row in epoch)


def test_pictures_of_a_concept_stand_apart():
    concept_of, epoch = arranged([8] * 200, 16)
    rows = np.argwhere(concept_of[epoch] == 5)[:, 0]
    assert len(rows) == 8 and np.diff(rows).min() >= 8  # 100 batches: 12.5 apart, give or take
