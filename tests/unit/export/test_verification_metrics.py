"""Figures of nearness and ranking against hand calculations."""

import math

import numpy as np
import pytest

from tinyclip_export.verification.metrics import (
    changed_hits,
    cosine_stats,
    recall_drop,
    text_to_image,
)

AXES = np.eye(4, dtype=np.float32)


def test_cosine_and_signal_to_error_by_hand():
    reference = AXES[:2]
    embeddings = np.array([[1, 0, 0, 0], [0, 0.8, 0.6, 0]], dtype=np.float32)
    near = cosine_stats(reference, embeddings)
    assert near.cosine_min == pytest.approx(0.8)
    # error of the second row: (0, 0.2, -0.6, 0), squared 0.4; signal 2; 10 log10(5)
    assert near.snr_db == pytest.approx(6.9897, abs=1e-3)


def test_equal_embeddings_have_a_finite_figure():
    near = cosine_stats(AXES, AXES)
    assert (near.cosine_min, near.snr_db) == (1.0, pytest.approx(200.0))


def test_embeddings_that_are_no_numbers_are_the_worst():
    broken = AXES.copy()
    broken[1, 1] = np.nan
    assert cosine_stats(AXES, broken).cosine_min == -1.0


def test_ranks_by_hand():
    # Text 0 finds its image first, text 1 second after image 0, text 2 last of three.
    text = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.6, 0.7, 0.387]], dtype=np.float32)
    ranks = text_to_image(np.eye(3, dtype=np.float32), text)
    assert ranks.rank.tolist() == [0, 1, 2]
    assert ranks.top.tolist() == [0, 0, 1]
    assert ranks.margin.tolist() == pytest.approx([1.0, -0.2, -0.313], abs=1e-3)
    assert ranks.recall(1) == pytest.approx(100 / 3)
    assert ranks.recall(2) == pytest.approx(200 / 3)


def test_drop_and_its_paired_error_by_hand():
    before = text_to_image(AXES, AXES)  # 4 hits
    after = text_to_image(AXES, AXES[[0, 1, 3, 2]])  # 2 hits
    drop, stderr = recall_drop(before, after)
    assert drop == pytest.approx(50.0)
    # losses 0, 0, 1, 1: standard deviation sqrt(1/3), over sqrt(4)
    assert stderr == pytest.approx(100 * math.sqrt(1 / 3) / 2)


def test_a_changed_hit_counts_only_where_the_reference_saw_no_tie():
    image = np.array([[1, 0], [1, 1e-6]], dtype=np.float32)  # two pictures of the same thing
    text = np.array([[1, 0], [1, 0]], dtype=np.float32)
    swapped = image[::-1].copy()
    assert changed_hits(text_to_image(image, text), text_to_image(swapped, text)) == 0
    before, after = text_to_image(AXES, AXES), text_to_image(AXES, AXES[[1, 0, 2, 3]])
    assert changed_hits(before, after) == 2


def test_ranking_in_chunks_is_ranking_at_once(monkeypatch):
    random = np.random.default_rng(0)
    image, text = (random.standard_normal((50, 8)).astype(np.float32) for _ in range(2))
    ranking = text_to_image(image, text)
    monkeypatch.setattr("tinyclip_export.verification.metrics._CHUNK", 7)
    parts = text_to_image(image, text)
    assert parts.rank.tolist() == ranking.rank.tolist()
    assert parts.margin == pytest.approx(ranking.margin)
