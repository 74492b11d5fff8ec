"""Agreement of two models' probabilities, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinyclip_edge.tailoring.agreement import agreement, folder_targets, label_probabilities

TEACHER = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]])


def test_shares_and_divergence():
    student = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.25, 0.5, 0.25]])
    found = agreement(TEACHER, student, [0, 0, -1, 1])
    assert (found.pictures, found.top1, found.top5) == (4, 0.5, 1.0)
    assert found.accuracy == 1.0  # of the three whose label is known
    rows = [
        0.7 * math.log(7 / 6) + 0.2 * math.log(2 / 3),
        0.1 * math.log(0.2) + 0.8 * math.log(2),
        0.0,
        0.5 * math.log(2) + 0.25 * math.log(0.5),
    ]
    assert found.kl == pytest.approx(sum(rows) / 4)
    assert agreement(TEACHER, TEACHER).kl == 0
    assert agreement(TEACHER, student).accuracy is None


def test_five_of_seven():
    teacher, student = np.eye(7)[[6, 5]], np.tile(np.linspace(0.2, 0.01, 7), (2, 1))
    student[1, 5] = 0.15
    assert agreement(teacher, student).top5 == 0.5


def test_independent_labels():
    teacher, student = np.array([[0.9, 0.8]]), np.array([[0.5, 0.8]])
    wanted = (0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)) / 2
    assert agreement(teacher, student).kl == pytest.approx(wanted)


def test_chances_are_a_softmax_or_sigmoids():
    images, labels = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    high = math.exp(2) / (math.exp(2) + 1)
    assert label_probabilities(images, labels, 2.0, None)[0] == pytest.approx([high, 1 - high])
    one, other = (1 / (1 + math.exp(-x)) for x in (2 - 1, -1))
    assert label_probabilities(images, labels, 2.0, -1.0)[1] == pytest.approx([other, one])


def test_folders_that_name_labels():
    labels = ["red bus", "Cat"]
    assert folder_targets(["a/Red_Bus/1.png", "a/cat/2.png"], labels) == [0, 1]
    many = [f"a/cat/{i}.png" for i in range(10)] + [f"a/red-bus/{i}.png" for i in range(9)]
    assert folder_targets([*many, "a/other/1.png"], labels) == [1] * 10 + [0] * 9 + [-1]
    assert folder_targets(["a/1.png", "a/cat/2.png"], labels) is None
    assert folder_targets(["a/cat/1.png", "b/cat/2.png"], labels) is None  # one label only


def test_a_student_without_numbers_agrees_in_nothing():
    found = agreement(TEACHER, np.full_like(TEACHER, np.nan))
    assert found.top1 == 0.5 and math.isfinite(found.kl) and found.kl > 20  # label 0 of all
