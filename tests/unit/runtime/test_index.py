from __future__ import annotations

import pickle

import numpy as np
import pytest

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.runtime.index import Hit, ImageIndex

FEATURES = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 1]], dtype=np.float32)


@pytest.fixture
def index():
    return ImageIndex(("east", "nördlich", "mid\0dle", "north again"), FEATURES, "abc-int8")


def test_best_first_and_ties_in_stored_order(index):
    query = np.array([0, 1], dtype=np.float32)
    assert index.top(query, 3) == [
        Hit("nördlich", 1.0),
        Hit("north again", 1.0),
        Hit("mid\0dle", pytest.approx(0.8)),
    ]
    assert len(index.top(query, 99)) == 4
    with pytest.raises(DataError, match="k must be 1 or more"):
        index.top(query, 0)


def test_save_and_load(tmp_path, index):
    path = index.save(tmp_path / "pictures")
    assert path == tmp_path / "pictures.npz" and [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = ImageIndex.load(tmp_path / "pictures")
    assert loaded.keys == index.keys and loaded.model_hash == "abc-int8"
    np.testing.assert_array_equal(loaded.features, FEATURES)
    with np.load(path, allow_pickle=False) as content:
        assert all(content[name].dtype != object for name in content.files)


def test_another_models_index_names_both_hashes(index):
    with pytest.raises(BundleError, match=r"abc-int8.*xyz-fp32"):
        index.require("xyz-fp32")


def test_broken_and_missing_files(tmp_path):
    with pytest.raises(DataError, match="no such index"):
        ImageIndex.load(tmp_path / "none.npz")
    path = tmp_path / "bad.npz"
    pickled = pickle.dumps({"keys": []})
    for content in (b"", b"PK\x03\x04", b"text", pickled):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no index file"):
            ImageIndex.load(path)
    np.savez(path, keys=np.array(["a", None], dtype=object), features=FEATURES, model_hash="x")
    with pytest.raises(DataError, match="no index file"):
        ImageIndex.load(path)
    np.savez(path, keys=np.frombuffer(b"[1, 2]", np.uint8), features=FEATURES, model_hash="x")
    with pytest.raises(DataError, match="keys are not texts"):
        ImageIndex.load(path)


def test_keys_and_features_must_fit():
    with pytest.raises(DataError, match="3 keys do not fit"):
        ImageIndex(("a", "b", "c"), FEATURES, "x")
