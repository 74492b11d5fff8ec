"""Fixtures that several rooms use."""

from __future__ import annotations

import pytest

from recorded_bundle import write_recorded_bundle
from tiny_bundle import TinyBundle, write_tiny_bundle
from tinyclip_edge.runtime import devices, placement
from tinyclip_edge.runtime.devices import CPU_PROVIDER, Provider


@pytest.fixture(scope="session")
def shared_tiny_bundle(tmp_path_factory) -> TinyBundle:
    """One bundle for tests that only read."""
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def tiny_bundle(tmp_path) -> TinyBundle:
    """A bundle of the test's own, free to be spoilt."""
    return write_tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def recorded_bundle(shared_tiny_bundle, tmp_path):
    """A copy of the tiny bundle with golden vectors, computed from its weights."""
    return write_recorded_bundle(shared_tiny_bundle, tmp_path / "recorded")


@pytest.fixture
def twin(monkeypatch):
    """A device named twin, which is onnxruntime's CPU provider under another name."""
    entry = Provider(name=CPU_PROVIDER, package="none", hardware="none", automatic=True)
    monkeypatch.setattr(devices, "PROVIDERS", {**devices.PROVIDERS, "twin": entry})
    return "twin"


@pytest.fixture
def counted_as_device(monkeypatch):
    """Count nodes of the CPU provider as nodes of the device."""
    monkeypatch.setattr(placement, "CPU_PROVIDER", "another")
