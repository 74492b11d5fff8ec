"""EdgeCLIP.search: texts, pictures, sums, negatives, several queries."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import DataError

NAMES = ("red", "lime", "blue", "white", "black", "orange")


@pytest.fixture(scope="module")
def clip(shared_tiny_bundle):
    return EdgeCLIP.load(shared_tiny_bundle.folder)


@pytest.fixture(scope="module")
def index(clip):
    return clip.index([picture(name) for name in NAMES], NAMES)


def picture(name):
    return Image.new("RGB", (12, 9), name)


def ranking(index, vector):
    """Keys by cosine with a vector, in float64."""
    cosines = index.features.astype(np.float64) @ (vector / np.linalg.norm(vector))
    return [index.keys[i] for i in np.argsort(-cosines, kind="stable")], np.sort(cosines)[::-1]


def check(hits, index, vector):
    keys, cosines = ranking(index, vector)
    assert [hit.key for hit in hits] == keys[: len(hits)]
    assert [hit.score for hit in hits] == pytest.approx(cosines[: len(hits)].tolist(), abs=1e-6)


def test_a_picture_in_every_form(clip, index, tmp_path):
    path = tmp_path / "query.png"
    picture("orange").save(path)
    row = clip.encode_image([path])[0].astype(np.float64)
    forms = (path, path.read_bytes(), picture("orange"), np.asarray(picture("orange")))
    for query in (*forms, index.vector("orange"), 7 * index.vector("orange")):
        check(clip.search(query, index, 6), index, row)
    with pytest.raises(DataError, match=r"is a picture: write Path\('"):
        clip.search(str(path), index)
    assert clip.search("nowhere.png", index)  # a text like any other


def test_sums_and_negatives(clip, index, tmp_path):
    path = tmp_path / "query.png"
    picture("lime").save(path)
    cat, red = clip.encode_text(["cat", "red"]).astype(np.float64)
    green = clip.encode_image([path])[0].astype(np.float64)
    query = {"cat": 2, path: 0.5, "red": -1}
    check(clip.search(query, index, 6), index, 2 * cat + 0.5 * green - red)
    check(clip.search("cat", index, 6, negative="red"), index, cat - red)
    check(clip.search("cat", index, 6, negative=["red", path]), index, cat - red - green)
    for nothing in ({}, {"cat": 0}, {"cat": 1, "CAT": -1}):
        with pytest.raises(DataError, match=r"cancel out|sum of embeddings"):
            clip.search(nothing, index)
    for weight in (math.nan, math.inf, "heavy", None):
        with pytest.raises(DataError, match=f"must be a finite number, not {weight!r}"):
            clip.search({"cat": weight}, index)
    for vector in (np.zeros(32, np.float32), np.full(32, np.nan, np.float32)):
        with pytest.raises(DataError, match="has zeros alone, or numbers that are not finite"):
            clip.search(vector, index)
    for empty in ("", " \n", {"": 1}):
        with pytest.raises(DataError, match="the text to search for is empty"):
            clip.search(empty, index)
    with pytest.raises(DataError, match=r"a sum of embeddings \[D\], not of \[1, 4\]"):
        clip.search(np.ones((1, 4), np.float32), index)


def test_several_queries_at_once(clip, index, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.runtime.index._QUERIES", 2)
    queries = ["cat", "red", picture("blue"), "a cat", {"cat": 1, "a": -0.5}]
    together = clip.search(queries, index, 3)
    assert [[hit.key for hit in hits] for hits in together] == [
        [hit.key for hit in clip.search(query, index, 3)] for query in queries
    ]
    assert clip.search([], index) == []


def test_low_scores_are_left_out(clip, index):
    every = clip.search("cat", index, 6)
    limit = (every[2].score + every[3].score) / 2
    assert clip.search("cat", index, 6, min_score=limit) == every[:3]
    assert clip.search("cat", index, 2, min_score=limit) == every[:2]


def test_hits_have_their_metadata(clip):
    metadata = [{"album": "2019"}, {"album": "2020"}]
    index = clip.index([picture("red"), picture("blue")], ["a", "b"], metadata=metadata)
    assert {hit.key: hit.metadata["album"] for hit in clip.search("cat", index)} == {
        "a": "2019", "b": "2020"
    }  # fmt: skip
    assert [hit.key for hit in clip.search("cat", index.filter(album="2020"))] == ["b"]
    assert clip.search(Path("missing.png").name, index.filter(album="2021")) == []
