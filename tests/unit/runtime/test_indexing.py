"""EdgeCLIP.index: folders, generators, broken pictures, keys, metadata, decoding ahead."""

from __future__ import annotations

import math
import os
import threading

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP, ImageIndex
from tinyclip_edge.errors import BundleError, DataError, TinyClipWarning


@pytest.fixture(scope="module")
def clip(shared_tiny_bundle):
    return EdgeCLIP.load(shared_tiny_bundle.folder)


def colour(value):
    return Image.new("RGB", (12, 9), value)


@pytest.fixture
def photos(tmp_path):
    """Four pictures in three folders, beside what is no picture, hidden, broken or a loop."""
    root = tmp_path / "photos"
    for name, value in (("b.png", "blue"), ("a.JPG", "red"), ("2019/c.webp", "lime")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour(value).save(path)
    for name in (".hidden.png", ".thumbs/x.png", "._a.JPG"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes((root / "b.png").read_bytes())
    (root / "notes.txt").write_text("no picture")
    os.mkfifo(root / "pipe.png")  # which would be waited for
    (root / "link.png").symlink_to("pipe.png")
    (root / "more").mkdir()
    (root / "more" / "loop").symlink_to(root)
    (root / "self.png").symlink_to("self.png")
    (root / "0link").symlink_to(root / "2019")  # sorts before the folder it leads to
    return root


def test_a_folder_is_its_pictures_once_each(clip, photos):
    (photos / "self.png").unlink()
    index = clip.index(str(photos))
    names = ["2019/c.webp", "a.JPG", "b.png"]
    assert index.keys == tuple(str(photos / name) for name in names)
    expected = clip.encode_image([photos / name for name in names])
    np.testing.assert_array_equal(index.features, expected)
    assert clip.index([photos / "2019", photos, photos]).keys == index.keys
    other = clip.index([photos / "b.png", photos / "2019"])
    assert other.keys == (index.keys[2], index.keys[0])


def test_broken_pictures_are_skipped_and_listed_or_named(clip, photos):
    (photos / "broken.jpg").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"broken\.jpg is not a supported.*on_error='skip' leaves"):
        clip.index(photos)
    index = clip.index(photos, on_error="skip")
    assert len(index) == 3 and str(photos / "broken.jpg") not in index
    assert [error.key for error in index.errors] == [
        str(photos / "broken.jpg"), str(photos / "self.png")
    ]  # fmt: skip
    assert "is not a supported image" in index.errors[0].reason
    with pytest.raises(DataError, match="on_error 'skipp'; did you mean 'skip'"):
        clip.index(photos, on_error="skipp")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nowhere/", "no folder nowhere.*it does not exist"),
        ([object()], "image 0: expected a path"),
        ({"a.png": 1}, "not a dict"),
    ],
)
def test_what_is_no_collection(clip, images, message):
    with pytest.raises(DataError, match=message):
        clip.index(images)


def test_folders_without_pictures_and_single_pictures(clip, tmp_path):
    for name in ("a.svg", "b.svg", "c.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"no picture in .*\(JPEG.*but 2 \.svg, 1 \.mp4"):
        clip.index(tmp_path)
    with pytest.raises(DataError, match=r"not a single one; write \['"):
        clip.index(tmp_path / "a.svg")


def test_kinds_of_pictures_in_one_generator(clip, photos):
    (photos / "self.png").unlink()
    data = (photos / "b.png").read_bytes()
    array = np.asarray(colour("red"))
    index = clip.index(iter([data, colour("red"), array, photos / "b.png", photos / "2019"]))
    keys = ("0", "1", "2", str(photos / "b.png"), str(photos / "2019" / "c.webp"))
    assert index.keys == keys
    np.testing.assert_array_equal(index.features[0], index.features[3])
    np.testing.assert_array_equal(index.features[1], index.features[2])


def test_keys_and_metadata_go_with_their_pictures(clip):
    images = [colour("red"), b"junk", colour("blue")]
    metadata = [{"album": number} for number in range(3)]
    index = clip.index(iter(images), iter("abc"), metadata=metadata, on_error="skip")
    assert index.keys == ("a", "c") and [entry["album"] for entry in index.metadata] == [0, 2]
    assert index.errors[0].key == "b" and "image 1" in index.errors[0].reason
    with pytest.raises(DataError, match="2 keys do not match 3 images"):
        clip.index(images, ["a", "b"])
    with pytest.raises(DataError, match="there are 1 keys or metadata, but more"):
        clip.index(iter([colour("red")] * 2), iter("a"))
    with pytest.raises(DataError, match="only 1 images, but more keys"):
        clip.index(iter([colour("red")]), iter("ab"))
    for value, kind in ((math.nan, "Out of range"), (object(), "not JSON serializable")):
        for wrong in ([{}, {"size": value}], iter([{}, {"size": value}])):
            with pytest.raises(DataError, match=f"metadata 'size' of image 1 must be .*{kind}"):
                clip.index([colour("red")] * 2, metadata=wrong)
    with pytest.raises(DataError, match="key 1 must be str"):
        clip.index([colour("red")], [1])


def test_repeated_keys_are_said(clip):
    with pytest.warns(TinyClipWarning, match="1 keys appear more than once, such as 'x'"):
        index = clip.index([colour("red"), colour("blue")], ["x", "x"])
    assert index.keys == ("x", "x") and not len(index.remove("x"))


def test_progress_counts_pictures(clip):
    calls = []
    clip.index([colour("red")] * 3, ["a", "b", "c"], progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    calls.clear()
    clip.index(iter([colour("red")]), progress=lambda *call: calls.append(call))
    assert calls == [(1, None)]


def test_few_pictures_are_drawn_ahead_of_the_model(clip, monkeypatch):
    drawn, embedded, ahead = 0, 0, []

    def pictures():
        nonlocal drawn
        for _ in range(400):
            drawn += 1
            yield colour("red")

    def tower(batch):
        nonlocal embedded
        ahead.append(drawn - embedded)
        embedded += len(batch)
        return np.tile(np.array([[1, 0, 0, 0]], np.float32), (len(batch), 1))

    monkeypatch.setattr(clip._parts, "_tower", lambda _: tower)
    assert len(clip.index(pictures())) == 400
    assert max(ahead) <= 3 * 32


def test_the_next_batch_is_decoded_while_the_model_computes(clip, monkeypatch):
    later = threading.Event()
    real = type(clip.preprocess).__call__

    def prepare(self, image, label):
        if label == "image 40":  # of the second batch
            later.set()
        return real(self, image, label)

    def tower(batch):
        assert later.wait(timeout=30)  # in the calling thread, which would wait in vain otherwise
        return np.tile(np.array([[1, 0, 0, 0]], np.float32), (len(batch), 1))

    monkeypatch.setattr(type(clip.preprocess), "__call__", prepare)
    monkeypatch.setattr(clip._parts, "_tower", lambda _: tower)
    assert len(clip.index([colour("red")] * 64)) == 64


def test_low_memory_embeds_one_at_a_time(shared_tiny_bundle):
    small = EdgeCLIP.load(shared_tiny_bundle.folder, low_memory=True)
    threads = threading.active_count()
    index = small.index(colour(value) for value in ("red", "blue"))
    expected = EdgeCLIP.load(shared_tiny_bundle.folder).encode_image(
        [colour("red"), colour("blue")]
    )
    np.testing.assert_allclose(index.features, expected, atol=1e-6)
    assert small.picture_encoder().threads == 0 and threading.active_count() == threads


def test_add_and_update_embed_by_the_indexs_model(clip, shared_tiny_bundle):
    index = clip.index([colour("red"), colour("blue")], ["a", "b"])
    more = index.add(clip, [colour("lime")], ["c"], metadata=[{"n": 1}])
    assert more.keys == ("a", "b", "c") and more.metadata == ({}, {}, {"n": 1})
    with pytest.raises(DataError, match="'a' is already in it; update replaces"):
        index.add(clip, [colour("lime")], ["a"])
    changed = index.update(clip, [colour("lime")], ["a"])
    assert changed.keys == ("b", "a")
    np.testing.assert_allclose(changed.vector("a"), more.vector("c"), atol=1e-6)
    small = index.compressed().add(clip, [colour("lime")], ["c"])
    assert isinstance(small, ImageIndex) and small.features.dtype == np.int8
    np.testing.assert_allclose(small.vector("c"), more.vector("c"), atol=1 / 127)
    other = EdgeCLIP.load(shared_tiny_bundle.folder, precision="fp32")
    with pytest.raises(BundleError, match="made by model"):
        index.add(other, [colour("lime")], ["c"])
