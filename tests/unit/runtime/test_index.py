from __future__ import annotations

import errno
import os
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.runtime import vectors
from tinyclip_edge.runtime.compress import recall_cost
from tinyclip_edge.runtime.index import Hit, ImageIndex, unit
from tinyclip_edge.runtime.index_file import FILE_STAMP, SkippedImage

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


def random_index(count=400, width=64, seed=0):
    rng = np.random.default_rng(seed)
    features = unit(rng.standard_normal((count, width)).astype(np.float32))
    return ImageIndex(tuple(map(str, range(count))), features, "abc-int8")


def test_int8_by_hand():
    index = ImageIndex(("a", "b"), np.array([[1, -0.5], [0, 0]], dtype=np.float32), "x")
    small = index.compressed()
    assert small.features.tolist() == [[127, -64], [0, 0]]  # -63.5 rounds to even
    assert small.scales.tolist() == pytest.approx([1 / 127, 0])
    scores = small.scores(np.array([[0, 1]], dtype=np.float32))
    assert scores.tolist()[0] == pytest.approx([-64 / 127, 0])


def test_int8_costs_little_and_is_a_quarter_of_the_file(tmp_path):
    index = random_index()
    small = index.compressed()
    query = unit(np.random.default_rng(1).standard_normal((50, 64)).astype(np.float32))
    # A step is at most max|x| / 127, its rounding half of that; a unit query sums at most sqrt(D).
    bound = np.abs(index.features).max() / 127 / 2 * 64**0.5
    cost = recall_cost(index, small, query, k=5)
    assert cost.score_error < bound and cost.overlap > 0.95 and cost.same_first > 0.9
    assert cost.bytes_exact == 400 * 64 * 4 and cost.bytes_small == 400 * 64 + 400 * 4
    sizes = [
        one.save(tmp_path / name).stat().st_size
        for name, one in (("exact", index), ("small", small))
    ]
    assert sizes[0] - sizes[1] > 0.7 * cost.bytes_exact
    loaded = ImageIndex.load(tmp_path / "small")
    np.testing.assert_array_equal(loaded.features, small.features)
    assert loaded.top(query[0], 3) == small.top(query[0], 3)


def marked_index():
    """An index with everything that a file can hold."""
    files = np.array([(1, 2, range(16)), (3, 4, [255] * 16)], FILE_STAMP)
    return ImageIndex(
        ("a", "b\udcff"),
        np.eye(2, 3, dtype=np.float32),
        "abc-int8",
        metadata=({"album": "Grüße", "stars": [1, 2.5, None]}, {}),
        errors=(SkippedImage("c", "is broken"),),
        files=files,
        bundle="/bundles/one",
    )


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
        assert int(content["format_version"]) == 2
        np.testing.assert_array_equal(content["features"], index.features)


def test_files_of_the_first_version_open(tmp_path):
    keys = np.frombuffer(b'["a", "b"]', dtype=np.uint8)
    features = np.asfortranarray(np.array([[1, 0], [0.6, 0.8]], np.float32))
    np.savez(tmp_path / "old.npz", keys=keys, features=features, model_hash=np.array("abc-int8"))
    for mmap in (False, True):
        index = ImageIndex.load(tmp_path / "old", mmap=mmap)
        assert index.keys == ("a", "b") and index.metadata is None and index.errors == ()
        assert index.top(np.array([0, 1], np.float32), 1) == [Hit("b", pytest.approx(0.8))]


def test_a_newer_version_is_refused(tmp_path, monkeypatch, index):
    monkeypatch.setattr("tinyclip_edge.runtime.index_file.FORMAT_VERSION", 3)
    path = index.save(tmp_path / "new")
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"version 3 is newer than 2.*upgrade tinyclip-edge"):
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


def test_rows_are_chosen_by_position(index):
    assert index[1:3].keys == ("nördlich", "mid\0dle") == index[[1, 2]].keys
    assert index[[False, True, True, False]].keys == index[np.array([1, -2])].keys
    np.testing.assert_array_equal(index[::-1].features, FEATURES[::-1])
    small = marked_index().compressed()[[1]]
    assert small.keys == ("b\udcff",) and small.metadata == ({},)
    assert small.files["size"].tolist() == [3] and len(small.scales) == 1
    assert len(index[[]]) == 0 and list(index) == list(index.keys) and "east" in index
    for rows, message in (
        (1, r"index\[1\]: use a slice"), ("east", "index.vector"), ([4], "beyond its 4 pictures"),
        ([True], "1 bools do not match 4"), ([0.5], "use a slice"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            index[rows]


def test_pictures_are_removed_and_filtered(index):
    assert index.remove("east").keys == index.keys[1:]
    assert index.remove(["east", "nördlich"]).keys == index.keys[2:]
    assert index.remove([]).keys == index.keys
    with pytest.raises(DataError, match="no picture 'west' to remove"):
        index.remove(["west", "east"])
    assert index.filter(lambda key, _: key.startswith("n")).keys == ("nördlich", "north again")
    marked = marked_index()
    assert marked.filter(album="Grüße").keys == ("a",)
    assert marked.filter(lambda key, entry: key != "a", album="Grüße").keys == ()
    assert index.filter(album=None).keys == ()
    with pytest.raises(DataError, match="no picture 'west'"):
        index.vector("west")


def test_two_indexes_become_one(index):
    other = ImageIndex(
        ("west", "east"), -FEATURES[:2], "abc-int8", errors=(SkippedImage("x", "y"),)
    )
    with pytest.raises(DataError, match="'east' is in it already"):
        index.merge(other)
    first, last = (index.merge(other, on_duplicate=which) for which in ("first", "last"))
    assert first.keys == (*index.keys, "west") and first.vector("east").tolist() == [1, 0]
    assert last.keys == (*index.keys[1:], "west", "east") and first.errors == other.errors
    assert last.vector("east").tolist() == [0, -1]
    with pytest.raises(DataError, match="on_duplicate 'newest'"):
        index.merge(other, on_duplicate="newest")
    with pytest.raises(BundleError, match="made by model"):
        index.merge(replace(other, model_hash="another"))
    joined = marked_index().merge(
        replace(marked_index(), keys=("c", "d"), files=None, metadata=None)
    )
    assert joined.metadata[0]["album"] == "Grüße" and joined.metadata[2:] == ({}, {})
    assert joined.files["size"].tolist() == [1, 3, 0, 0] and len(joined.errors) == 1


def test_an_index_takes_others_in_its_own_form():
    exact, more = (
        random_index(),
        replace(random_index(seed=2), keys=tuple("x" * i for i in range(400))),
    )
    small = exact.compressed(dimensions=16)
    joined = small.merge(more)
    whole = exact.merge(more).compressed(dimensions=16)
    np.testing.assert_array_equal(joined.features, whole.features)
    np.testing.assert_array_equal(joined.scales, whole.scales)
    assert joined.width == 64 and exact.merge(more.compressed()).features.dtype == np.float32
    with pytest.raises(DataError, match="16 dimensions, fewer than 64"):
        exact.merge(replace(small, keys=more.keys))


def test_a_short_description(index):
    assert repr(index) == "ImageIndex(4 images, 2 dimensions, float32, model abc-int8)"
    assert repr(marked_index().compressed()) == (
        "ImageIndex(2 images, 3 dimensions, int8, 1 skipped, model abc-int8)"
    )
    assert len(repr(random_index())) < 80


def test_the_best_of_many_equal_scores_are_in_stored_order():
    features = np.tile(np.array([[0.6, 0.8], [1, 0]], np.float32), (500, 1))
    index = ImageIndex(tuple(map(str, range(1000))), features, "x")
    hits = index.top(np.array([1, 0], np.float32), 7)
    assert [hit.key for hit in hits] == [str(i) for i in range(1, 15, 2)]
    hits = index.top(np.array([1, 0], np.float32), 503)
    assert [hit.key for hit in hits][498:] == ["997", "999", "0", "2", "4"]


def test_many_rows_are_scored_in_parts(monkeypatch):
    index = random_index(50).compressed()
    query = unit(np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32))
    scores = index.scores(query)
    monkeypatch.setattr(vectors, "ROWS", 7)
    np.testing.assert_allclose(index.scores(query), scores, atol=1e-7)
    assert index.scores(query).shape == (3, 50)


def test_first_dimensions_are_normalised_again(tmp_path):
    index = ImageIndex(("a", "b"), np.array([[0.6, 0.64, 0.48], [0, 0, 1]], np.float32), "x")
    small = index.compressed(dimensions=2, int8=False)
    np.testing.assert_allclose(small.features[0], [0.6 / 0.8773, 0.64 / 0.8773], atol=1e-4)
    query = np.array([0.8, 0, 0.6], dtype=np.float32)  # its first two, made unit: [1, 0]
    assert small.top(query, 1) == [Hit("a", pytest.approx(0.6 / 0.8773, abs=1e-4))]
    assert ImageIndex.load(small.save(tmp_path / "cut")).top(query, 2) == small.top(query, 2)
    both = random_index().compressed(dimensions=16)
    assert both.nbytes == 400 * 16 + 400 * 4 and both.width == 64


def test_recall_cost_by_hand():
    exact = ImageIndex(("a", "b"), np.eye(2, dtype=np.float32), "x")
    swapped = ImageIndex(("a", "b"), np.eye(2, dtype=np.float32)[::-1], "x")
    cost = recall_cost(exact, swapped, np.eye(2, dtype=np.float32), k=1, right=[0, 1])
    assert (cost.same_first, cost.overlap, cost.score_error) == (0, 0, 1)
    assert (cost.recall_exact, cost.recall_small, cost.recall_cost) == (1, 0, 1)
    unknown = recall_cost(exact, exact, np.eye(2, dtype=np.float32), k=9)
    assert unknown.overlap == 1 and unknown.recall_cost is None
    assert unknown.as_dict()["queries"] == 2


def test_what_cannot_be_compressed_or_compared(index):
    for dimensions in (0, 3, -1):
        with pytest.raises(DataError, match="dimensions must be 1 to 2"):
            index.compressed(dimensions=dimensions)
    with pytest.raises(DataError, match="already compressed"):
        index.compressed().compressed()
    query = np.eye(2, dtype=np.float32)
    with pytest.raises(DataError, match="of different pictures or models"):
        recall_cost(index, random_index(4, 2), query)
    with pytest.raises(DataError, match="at least one query"):
        recall_cost(index, index, query[:0])
    with pytest.raises(DataError, match="1 correct pictures for 2"):
        recall_cost(index, index, query, right=[0])
    with pytest.raises(DataError, match="query has 3 dimensions, not 2"):
        index.top(np.zeros(3, np.float32), 1)


def test_an_empty_index():
    empty = ImageIndex((), np.empty((0, 4), np.float32), "x")
    for one in (empty, empty.compressed()):
        assert one.top(np.zeros(4, np.float32), 3) == []


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
        with pytest.raises(DataError, match="not an index file"):
            ImageIndex.load(path)
    np.savez(path, keys=np.array(["a", None], dtype=object), features=FEATURES, model_hash="x")
    with pytest.raises(DataError, match="not an index file"):
        ImageIndex.load(path)
    np.savez(path, keys=np.frombuffer(b"[1, 2]", np.uint8), features=FEATURES, model_hash="x")
    with pytest.raises(DataError, match="keys are not strings"):
        ImageIndex.load(path)


def test_keys_and_features_must_fit():
    with pytest.raises(DataError, match="3 keys do not match"):
        ImageIndex(("a", "b", "c"), FEATURES, "x")


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
