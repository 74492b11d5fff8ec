"""The file of an index: it comes back whole, and broken ones are refused."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
from example_indexes import FEATURES, four_directions, marked_index, random_index

from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.index import Hit, ImageIndex


@pytest.fixture
def index():
    return four_directions()


def test_save_and_load(tmp_path, index):
    path = index.save(tmp_path / "pictures")
    assert path == tmp_path / "pictures.npz" and [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = ImageIndex.load(tmp_path / "pictures")
    assert loaded.keys == index.keys and loaded.model_hash == "abc-int8"
    np.testing.assert_array_equal(loaded.features, FEATURES)
    with np.load(path, allow_pickle=False) as content:
        assert all(content[name].dtype != object for name in content.files)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("int8", [False, True])
def test_everything_comes_back(tmp_path, mmap, int8):
    index = marked_index().compressed(int8=int8)
    loaded = ImageIndex.load(index.save(tmp_path / "all"), mmap=mmap)
    for name in ("keys", "model_hash", "width", "metadata", "errors", "bundle"):
        assert getattr(loaded, name) == getattr(index, name)
    for name in ("features", "scales", "files"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(index, name))
    assert isinstance(loaded.features, np.memmap) is mmap
    assert loaded.features.ctypes.data % 64 == 0 or not mmap
    assert loaded.top(np.array([0, 1, 0], np.float32), 1) == [Hit("b\udcff", pytest.approx(1))]
    with np.load(tmp_path / "all.npz", allow_pickle=False) as content:
        assert int(content["format_version"]) == 3
        np.testing.assert_array_equal(content["features"], index.features)


def test_keys_in_a_mapped_file_are_read_when_they_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.runtime.index_keys._KEYS", 7)
    index = replace(random_index(20, 4), keys=tuple(f'{"é" * i}, "{i}' for i in range(20)))
    path = index.save(tmp_path / "a")
    keys = ImageIndex.load(path, mmap=True).keys
    assert len(keys) == 20 and tuple(keys) == index.keys == keys and keys != index.keys[1:]
    assert [keys[0], keys[-1], keys[13]] == [index.keys[i] for i in (0, -1, 13)]
    assert keys[3:18] == index.keys[3:18] and keys[::-2] == index.keys[::-2]
    assert keys.index(index.keys[19]) == 19 and index.keys[5] in keys and "x" not in keys
    for wrong in (lambda: keys[20], lambda: keys[-21], lambda: keys.index("x")):
        with pytest.raises((IndexError, ValueError)):
            wrong()
    content = path.read_bytes()
    path.write_bytes(content.replace(b'\\"1"', b'\\"1x'))
    loaded = ImageIndex.load(path, mmap=True)
    assert loaded.top(index.features[9], 1)[0].key == index.keys[9]
    with pytest.raises(DataError, match="its keys are broken"):
        loaded.top(index.features[1], 1)
    path.write_bytes(content.replace(b'\\"1"', b'",2 '))
    with pytest.raises(DataError, match="its keys are broken"):
        list(ImageIndex.load(path, mmap=True))


def test_files_of_the_first_version_open(tmp_path):
    keys = np.frombuffer(b'["a", "b"]', dtype=np.uint8)
    features = np.asfortranarray(np.array([[1, 0], [0.6, 0.8]], np.float32))
    np.savez(tmp_path / "old.npz", keys=keys, features=features, model_hash=np.array("abc-int8"))
    for mmap in (False, True):
        index = ImageIndex.load(tmp_path / "old", mmap=mmap)
        assert index.keys == ("a", "b") and index.metadata is None and index.errors == ()
        assert index.top(np.array([0, 1], np.float32), 1) == [Hit("b", pytest.approx(0.8))]


def test_a_newer_version_is_refused(tmp_path, monkeypatch, index):
    monkeypatch.setattr("tinyclip_edge.runtime.index_file.FORMAT_VERSION", 4)
    path = index.save(tmp_path / "new")
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"version 4 is newer than 3.*upgrade tinyclip-edge"):
        ImageIndex.load(path)


def test_a_mapped_file_that_was_cut_or_spoilt(tmp_path):
    path = random_index().save(tmp_path / "a")
    content = path.read_bytes()
    start = content.index(b"features.npy")
    size = content.index(b"\x93NUMPY", start)
    path.write_bytes(content[:size] + b"\0" * 64 + content[size + 64 :])
    with pytest.raises(DataError, match="not an index file"):
        ImageIndex.load(path, mmap=True)
    path.write_bytes(content[: size + 128] + b"\xff" * 4 + content[size + 132 :])  # a NaN
    with pytest.raises(DataError, match="not finite numbers"):
        ImageIndex.load(path, mmap=True).top(np.ones(64, np.float32), 1)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, index):
    path = index.save(tmp_path / "pictures")
    old = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*pictures\.npz: No space left"):
        index[:2].save(path)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == [path.name]
    monkeypatch.undo()
    with pytest.raises(DataError, match="texts, finite numbers"):
        replace(index, metadata=({"a": {1}},) * 4).save(path)
    with pytest.raises(DataError, match="cannot write"):
        index.save(tmp_path / "none" / "pictures")
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_readers_see_one_whole_index_while_another_is_written(tmp_path):
    path = tmp_path / "a.npz"
    versions = {size: random_index(size, 8, size) for size in (50, 80)}
    versions[50].save(path)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for version in versions.values():
                version.save(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(60):
            loaded = ImageIndex.load(path, mmap=bool(turn % 2))
            np.testing.assert_array_equal(loaded.features, versions[len(loaded)].features)
    finally:
        stop.set()
        writer.join()


def test_broken_and_missing_files(tmp_path):
    with pytest.raises(DataError, match="no such index"):
        ImageIndex.load(tmp_path / "none.npz")
    path = tmp_path / "bad.npz"
    pickled = pickle.dumps({"keys": []})
    for content in (b"", b"PK\x03\x04", b"text", pickled):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not an index file"):
            ImageIndex.load(path)
    np.savez(path, keys=np.array(["a", None], dtype=object), features=FEATURES, model_hash="x")
    with pytest.raises(DataError, match="not an index file"):
        ImageIndex.load(path)
    np.savez(path, keys=np.frombuffer(b"[1, 2]", np.uint8), features=FEATURES, model_hash="x")
    with pytest.raises(DataError, match="keys are not strings"):
        ImageIndex.load(path)


def npz(path, **arrays):
    keys = np.frombuffer(b'["a", "b"]', np.uint8)
    np.savez(path, **{"keys": keys, "model_hash": "x", **arrays})
    return path


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.full((2, 2), np.nan, np.float32)}, "not finite"),
        ({"features": np.ones((2, 2), np.int64)}, "not finite floats"),
        ({"features": np.ones((2, 2), np.int8)}, "int8 features need scales"),
        ({"features": np.ones((2, 2), np.float32), "scales": np.ones(2)}, "need scales"),
        ({"features": np.ones((2, 2), np.int8), "scales": np.ones(3)}, "do not match 3 scales"),
        ({"features": np.ones((2, 2), np.int8), "scales": [np.inf, 1.0]}, "not finite"),
        ({"features": np.ones((2, 2), np.float32), "width": 1}, "more than the model's 1"),
        ({"features": np.ones((2, 2), np.float32), "width": "a"}, "not an index file"),
        ({"features": np.ones(2, np.float32)}, "do not match features"),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        ImageIndex.load(npz(tmp_path / "bad.npz", **arrays))
    assert "bad.npz is not an index file" in str(caught.value)


def test_a_file_cannot_ask_for_more_memory_than_it_has_bytes(tmp_path):
    import io
    import zipfile

    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(header, claim)
    path = npz(tmp_path / "bomb.npz")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("features.npy", header.getvalue() + b"1234")
    with pytest.raises(DataError, match="features does not match its header"):
        ImageIndex.load(path)
    np.savez_compressed(path, keys=np.frombuffer(b"[]", np.uint8), features=np.zeros((0, 2)))
    with pytest.raises(DataError, match="is compressed"):
        ImageIndex.load(path)
