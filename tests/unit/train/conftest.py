"""Fixtures of training."""

import pytest

from tinyclip_edge.train.checkpoint_store import CheckpointStore


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=2)
