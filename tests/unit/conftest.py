"""Fixtures that several rooms use."""

from __future__ import annotations

import pytest

from tiny_bundle import TinyBundle, write_tiny_bundle


@pytest.fixture(scope="session")
def shared_tiny_bundle(tmp_path_factory) -> TinyBundle:
    """One bundle for tests that only read."""
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def tiny_bundle(tmp_path) -> TinyBundle:
    """A bundle of the test's own, free to be spoilt."""
    return write_tiny_bundle(tmp_path / "bundle")
