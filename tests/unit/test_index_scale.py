"""The benchmark of large indexes makes vectors like CLIP's, and the same ones in a second run."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def index_scale():
    import index_scale

    return index_scale


def test_pictures_share_a_mean_and_topics(index_scale):
    made = index_scale.Pictures(5000, 64)
    pictures = made.pictures(np.random.default_rng(0), 2000)
    texts = made.texts(np.random.default_rng(1), 200)
    np.testing.assert_allclose(np.linalg.norm(pictures, axis=1), 1, atol=1e-5)
    cosines = pictures @ pictures.T
    np.fill_diagonal(cosines, np.nan)
    assert np.nanmean(cosines) == pytest.approx(0.5, abs=0.05)
    assert np.nanmedian(np.nanmax(cosines, axis=1)) > 0.75  # one of the same topic
    assert abs((texts @ pictures.T).mean()) < 0.1  # away from all pictures
    assert np.median((texts @ pictures.T).max(axis=1)) > 0.25


def test_a_second_run_goes_on_with_the_vectors_of_the_first(index_scale, tmp_path, monkeypatch):
    monkeypatch.setattr(index_scale, "BLOCK", 100)
    codes, scales = index_scale.stored(250, 8, tmp_path)
    expected = np.array(codes)
    (tmp_path / "done-250").write_text("100")
    codes[150:] = 0
    again, same = index_scale.stored(250, 8, tmp_path)
    np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(same, scales)


def test_a_graph_grows_by_parts_and_over_runs(index_scale, tmp_path, monkeypatch):
    monkeypatch.setattr(index_scale, "PART", 100)
    codes, scales = index_scale.stored(250, 16, tmp_path)
    index = index_scale.ImageIndex(tuple(map(str, range(250))), codes, "m", scales)
    grown = index_scale.Growth(index, 1, tmp_path).whole().graph
    assert grown.nodes == len(grown.labels) == 250
    again = index_scale.Growth(index, 1, tmp_path)
    monkeypatch.setattr(again, "_grow", None)  # all of it is there
    assert np.array_equal(again.whole().graph.content, grown.content)
    assert again.done["runs"] == 2


def test_a_small_run(index_scale, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(index_scale, "QUERIES", 5)
    monkeypatch.setattr(index_scale, "PART", 200)
    words = ("--vectors", "500", "--dimensions", "16", "--threads", "1", "--work", tmp_path / "w")
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words), "--out", str(tmp_path / "o.json")])
    searched = index_scale.searched
    monkeypatch.setattr(
        index_scale.subprocess,
        "run",
        lambda command, **_: type(
            "Done", (), {"stdout": json.dumps(searched(command[-1], 500, 16))}
        ),
    )
    index_scale.main()
    run = json.loads((tmp_path / "o.json").read_text())["runs"]["500"]
    assert run["vectors"] == 500 and run["sampled_recall"] >= 0.98
    assert run["search"][f"texts, {run['expansion']} candidates"]["recall_at_10"] > 0.9
    assert "open_s" in capsys.readouterr().out
