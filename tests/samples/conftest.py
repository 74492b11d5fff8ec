"""Where `make samples` unpacks what the applications are built with."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of unpacked packages."""
    return ROOT / "build/samples"
