from __future__ import annotations

import pytest

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance import choose_layers


# What the published code was seen to do.
@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (12, 6, (0, 2, 4, 6, 8, 10)),
        (12, 3, (0, 4, 8)),
        (12, 9, (0, 1, 2, 3, 4, 5, 6, 7, 8)),
        (7, 3, (0, 2, 4)),
        (12, 12, tuple(range(12))),
        (12, 10, tuple(range(10))),
        (9, 6, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_published_layers(teacher, student, expected):
    assert choose_layers(teacher, student, "published") == expected


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (12, 6, (0, 2, 4, 7, 9, 11)),  # 0, 2.2, 4.4, 6.6, 8.8, 11
        (6, 3, (0, 3, 5)),  # 2.5 rounds up
        (6, 5, (0, 1, 3, 4, 5)),  # 0, 1.25, 2.5, 3.75, 5
        (3, 2, (0, 2)),
        (3, 3, (0, 1, 2)),
        (4, 1, (0,)),
    ],
)
def test_evenly_spaced_layers_keep_both_ends(teacher, student, expected):
    assert choose_layers(teacher, student, "evenly") == expected


def test_evenly_spaced_layers_are_distinct_and_rising():
    for teacher in range(1, 25):
        for student in range(2, teacher + 1):
            layers = choose_layers(teacher, student, "evenly")
            assert layers[0] == 0
            assert layers[-1] == teacher - 1
            assert list(layers) == sorted(set(layers))
            assert len(layers) == student


@pytest.mark.parametrize("layers", ["published", "evenly"])
@pytest.mark.parametrize("student", [0, 4])
def test_a_student_without_layers_or_deeper_is_refused(layers, student):
    with pytest.raises(InheritanceError, match=f"{student} layers cannot be chosen out of 3"):
        choose_layers(3, student, layers)


def test_unknown_choice_names_the_nearest():
    with pytest.raises(InheritanceError, match="did you mean 'evenly'"):
        choose_layers(12, 6, "evenlyy")  # type: ignore[arg-type]
