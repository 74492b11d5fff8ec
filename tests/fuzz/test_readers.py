"""Every reader answers whatever a file holds with one line of our own error.

All hostile inputs of a reader and some hundred seeded ones; marked slow, 20,000. FUZZ_INPUTS sets
another number.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import warnings
from pathlib import Path

import pytest
import readers
from driver import SECONDS, Reader, drive

SOME = 150
TABLE: list[Reader] = [
    reader
    for module in pkgutil.iter_modules(readers.__path__)
    for reader in importlib.import_module(f"readers.{module.name}").READERS
]
assert len({reader.name for reader in TABLE}) == len(TABLE)


def numbers(reader: Reader, many: bool) -> range:
    usual = reader.most if many else len(reader.hostile) + SOME * reader.weight
    return range(int(os.environ.get("FUZZ_INPUTS") or usual))


CASES = [
    *(pytest.param(one, False, id=f"{one.name}-False") for one in TABLE if one.weight),
    *(
        pytest.param(
            one,
            True,
            id=f"{one.name}-True",
            marks=[pytest.mark.slow, pytest.mark.hours, pytest.mark.timeout(14_400)],
        )
        for one in TABLE
    ),
]


@pytest.mark.parametrize(("reader", "many"), CASES)
def test_reader(reader: Reader, many: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tally = drive(reader, tmp_path, numbers(reader, many))
    with capsys.disabled():
        if many:
            print(f"\n{tally.line(reader.name)}")
    assert not tally.failures, f"{tally.line(reader.name)}\n{tally.failed()}"
    if tally.seconds > SECONDS / 2:
        warnings.warn(tally.line(reader.name), stacklevel=1)
