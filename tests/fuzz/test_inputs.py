"""Texts and arrays in memory, of any content, shape and type; files are in the table of readers."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiny_bundle import DIM, SIZE, write_tiny_bundle
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.preprocess import Preprocess

# The same examples in every run.
fixed = settings(
    max_examples=100,
    deadline=timedelta(seconds=20),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
KINDS = ("uint8", "int8", "int64", "float16", "float32", "bool", "object", "U3")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return EdgeCLIP.load(write_tiny_bundle(tmp_path_factory.mktemp("texts") / "bundle").folder)


@fixed
@given(text=st.text(max_size=200))
def test_any_text_has_an_embedding(clip, text):
    embedding = clip.encode_text([text])
    assert embedding.shape == (1, DIM)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


@fixed
@given(shape=st.lists(st.integers(0, 5), max_size=4), kind=st.sampled_from(KINDS))
def test_an_array_is_a_picture_or_refused(shape, kind):
    try:
        pixels = Preprocess(SIZE, SIZE)(np.zeros(shape, dtype=kind))
    except DataError as error:
        assert str(error).isprintable()
    else:
        assert pixels.shape == (3, SIZE, SIZE) and np.isfinite(pixels).all()
