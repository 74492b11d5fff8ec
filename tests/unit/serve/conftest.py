"""A server of a tiny bundle."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from served import BASE
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.serve import create_app


@pytest.fixture(scope="module")
def clip(shared_tiny_bundle):
    return EdgeCLIP.load(shared_tiny_bundle.folder)


@pytest.fixture
def client(clip):
    with TestClient(create_app(clip), base_url=BASE) as client:
        yield client
