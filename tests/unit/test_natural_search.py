"""Figures of natural queries, against hand calculation; the queries are no captions of the kit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinyclip_edge.starter import kit_path
from tinyclip_edge.starter.kit import read_split


@pytest.fixture(scope="module")
def natural_search():
    from starter import natural_search

    return natural_search


def test_precision_and_ndcg_are_those_of_the_ranking(natural_search):
    scores = np.array([[6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]], np.float32)
    relevant = np.array([[1, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0]], bool)

    figures = natural_search.search_figures(scores, relevant)

    # First query: relevant at ranks 1, 3 and 6; second: at rank 6, below the five.
    assert figures["precision@5"] == pytest.approx(100 * 2 / 10)
    gains = [1 / np.log2(rank + 1) for rank in range(1, 7)]
    first = (gains[0] + gains[2] + gains[5]) / sum(gains[:3])
    assert figures["ndcg@10"] == pytest.approx(100 * (first + gains[5]) / 2, abs=0.01)


def test_queries_are_no_captions_and_each_has_relevant_pictures(natural_search):
    queries = json.loads(natural_search.QUERIES.read_text(encoding="utf-8"))
    splits = {name: list(read_split(kit_path(), name)) for name in ("train", "val", "test_style")}
    captions = {
        part.strip().casefold()
        for samples in splits.values()
        for sample in samples
        for caption in sample.captions
        for part in (caption, *caption.split(","))
    }
    pictures = {s.concept for s in splits["test_style"] if s.about["family"] == "twemoji"}

    assert len(queries) == 200
    assert not captions & {query.casefold() for query in queries}
    assert all(names and set(names) <= pictures for names in queries.values())
