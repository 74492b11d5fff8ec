"""Accuracies against small cases worked out by hand, and against drawing at random."""

import numpy as np
import pytest
import torch

from tinyclip_edge.train.tasks.validation import accuracies

# Pictures in rows, labels in columns; picture 3 is a second one of concept 0.
SIMILARITY = torch.tensor(
    [
        [0.9, 0.1, 0.2],  # right
        [0.5, 0.4, 0.1],  # label 1 is second
        [0.3, 0.2, 0.8],  # right
        [0.1, 0.2, 0.3],  # label 0 is last
    ]
)
CONCEPTS = torch.tensor([0, 1, 2, 0])


def test_recalls_by_hand():
    accuracy = accuracies(SIMILARITY, CONCEPTS)
    assert accuracy["i2t_r1"] == 2 / 4
    assert accuracy["i2t_r5"] == 1.0
    # column 0: picture 0 on top; column 1: picture 1 (0.4) on top; column 2: picture 2 on top
    assert accuracy["t2i_r1"] == 1.0
    assert accuracy["zero_shot_100"] == 2 / 4  # only three labels: all are candidates


def test_a_picture_of_another_concept_on_top_is_a_miss():
    worse = SIMILARITY.clone()
    worse[2, 1] = 0.6
    assert accuracies(worse, CONCEPTS)["t2i_r1"] == pytest.approx(2 / 3)


def test_a_collapsed_model_gets_no_credit():
    accuracy = accuracies(torch.ones(40, 30), torch.arange(40) % 30)
    assert set(accuracy.values()) == {0.0}


def test_among_100_candidates_equals_drawing_them():
    random = np.random.default_rng(0)
    similarity = torch.from_numpy(random.normal(size=(60, 400)))
    concepts = torch.from_numpy(random.integers(0, 400, 60))
    similarity[torch.arange(60), concepts] += 2.0
    hits = 0
    for _ in range(300):
        for row, concept in zip(similarity, concepts, strict=True):
            others = np.delete(np.arange(400), int(concept))
            candidates = random.choice(others, 99, replace=False)
            hits += bool(row[concept] > row[torch.from_numpy(candidates)].max())
    # standard error of 18,000 draws is below 0.4 points
    accuracy = accuracies(similarity, concepts)["zero_shot_100"]
    assert accuracy == pytest.approx(hits / (300 * 60), abs=0.015)


def test_features_that_are_not_numbers_are_misses():
    similarity = torch.full((4, 4), torch.nan)
    measured = accuracies(similarity, torch.arange(4))
    assert measured == dict.fromkeys(measured, 0.0) | {"t2i_r5": 1.0, "i2t_r5": 1.0}  # of 4
    similarity = torch.eye(200)
    similarity[:2] = torch.nan
    measured = accuracies(similarity, torch.arange(200))
    assert measured["i2t_r1"] == measured["i2t_r5"] == pytest.approx(0.99)
    assert measured["zero_shot_100"] == pytest.approx(0.99)
    assert measured["t2i_r1"] == 0  # each label has a picture of which nothing is known ahead
