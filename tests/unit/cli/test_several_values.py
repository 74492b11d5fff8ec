from __future__ import annotations

import pytest

from tinyclip_edge.cli.several_values import spread


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a b --data x y --json", "a b --data x --data y --json"),
        ("a --data x --data y z", "a --data x --data y --data z"),
        ("--limit 3 a --data x", "--limit 3 a --data x"),
        ("a --data=x b", "a --data=x b"),
        ("--data x y -- -b z", "--data x --data y -- -b z"),
        ("--data - x", "--data - --data x"),
        ("", ""),
    ],
)
def test_the_option_stands_before_each_of_its_values(line, expected):
    assert spread(line.split(), ["--data"]) == expected.split()
