"""Agreement of a student with its teacher, by hand."""

import math

import pytest
import torch

from tinyclip_edge.config.sources import TextsConfig
from tinyclip_edge.train.tasks.agreement import agreement, folder_labels, label_accuracy

TEACHER = torch.tensor([[3.0, 1.0, 0.0, 0, 0, 0, 0], [0.0, 0.0, 2.0, 0, 0, 0, 0]])


def test_a_student_that_answers_like_its_teacher_agrees():
    values = agreement(TEACHER, TEACHER)
    assert values == {"agree_1": 1.0, "agree_5": 1.0, "agree_kl": pytest.approx(0.0, abs=1e-12)}


def test_agreement_by_hand():
    student = torch.tensor([[2.0, 3.0, 0.0, 0, 0, 0, 0], [5.0, 5.0, 0.0, 5, 5, 5, 5]])
    values = agreement(student, TEACHER)
    assert values["agree_1"] == 0.0  # second, and last
    assert values["agree_5"] == 0.5
    divergences = []
    for ours, theirs in zip(student.tolist(), TEACHER.tolist(), strict=True):
        q, p = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (ours, theirs))
        divergences.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert values["agree_kl"] == pytest.approx(sum(divergences) / 2)


def test_a_collapsed_student_and_nan_agree_on_nothing():
    assert agreement(torch.ones(2, 7), TEACHER)["agree_1"] == 0.0
    assert agreement(torch.full((2, 7), math.nan), TEACHER)["agree_5"] == 0.0


def test_folders_name_labels():
    source = TextsConfig(labels=["Red square", "cat"])
    keys = ["a/red_square/1.png", "cat/2.png"]
    assert folder_labels(keys, source).tolist() == [0, 1]
    assert folder_labels([*keys, "dog/3.png"], source) is None
    assert folder_labels(keys, "texts.txt") is None


def test_the_accuracy_of_labels_is_that_of_the_mean_over_templates():
    logits = torch.tensor([[1.0, 3.0, 2.5, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 2.0]])
    labels = torch.tensor([0, 0, 0])  # 2 over 1.25; a tie; 0.5 below 2
    assert label_accuracy(logits, labels, 2) == pytest.approx(1 / 3)
