"""Fixtures of training."""

import pytest
import torch

from tinyclip_edge.data import Batch
from tinyclip_edge.train.checkpoint_store import CheckpointStore


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


@pytest.fixture
def batch():
    """A batch of noise with six different captions."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)
    texts = ("cat", "a dog", "the red square", "blue circle", "a photo of the bicycle", "red dog")
    return Batch(tuple("abcdef"), pixels, texts)
