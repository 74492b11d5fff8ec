"""Figures as people read them: no 0.0787 s, no 0.05 TFLOP/s."""

import pytest

from tinyclip_edge.units import counted, duration, operations, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 ms"), (0.0004, "0.4 ms"), (0.0787, "79 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"),
        (9.94, "9.9 s"), (9.96, "10 s"), (42, "42 s"), (99.6, "1 min 40 s"), (205, "3 min 25 s"),
        (599.6, "10 min"), (1500, "25 min"), (5999, "1 h 40 min"), (11_100, "3 h 05 min"),
        (36_000, "10 h"), (3.6e6, "1,000 h"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_600, "1.00 MB"),
        (123_456_789, "123 MB"), (2.5e12, "2.50 TB"), (1.2e16, "12,000 TB"),
    ],
)  # fmt: skip
def test_sizes(count, text):
    assert size(count) == text


def test_counts():
    assert [counted(n, "group") for n in (0, 1, 1234)] == ["0 groups", "1 group", "1,234 groups"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0.05e12, "50.0 GFLOP"), (114e12, "114 TFLOP"), (1.5e15, "1.50 PFLOP"), (3e21, "3,000 EFLOP")],
)
def test_operations(count, text):
    assert operations(count) == text
