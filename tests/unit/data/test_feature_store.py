"""The feature cache: rows of the right pair or none, whole parts or none, one recipe a folder."""

import errno
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pair_shards import toy_samples, write_shard
from tinyclip_edge.data import FeatureStore, PartFeatures, feature_part, open_source
from tinyclip_edge.data.marks import caption_mark, part_mark, sample_mark
from tinyclip_edge.errors import DataError

WIDTH = 4
RECIPE = {
    "teachers": [{"name": "a", "weights": "0123456789abcdef0123", "preprocess": {"size": 32}}],
    "views": {"count": 2, "crop_scale": [0.9, 1.0]},
    "width": WIDTH,
}


def features_of(part, views=2):
    """Numbers that tell a row by its place in the part: pictures 8 * row + view, texts 1000 + m."""
    pairs = list(part)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair.captions))
    rows = 8 * np.arange(len(pairs))[:, None] + np.arange(views)
    return PartFeatures(
        np.repeat(rows[..., None], WIDTH, axis=-1).astype(np.float16),
        rows.astype(np.int64) + 10**15,
        np.array([list(sample_mark(pair)) for pair in pairs], dtype=np.uint8),
        np.repeat(1000 + np.arange(len(texts))[:, None], WIDTH, axis=1).astype(np.float16),
        np.array([list(caption_mark(text)) for text in texts], dtype=np.uint8),
        bad=3,
    )


@pytest.fixture
def source(tmp_path):
    samples = toy_samples()
    write_shard(tmp_path / "a-0.tar", samples[:10])
    write_shard(tmp_path / "a-1.tar", samples[10:24])
    return open_source(str(tmp_path / "a-*.tar"))


@pytest.fixture
def store(tmp_path, source):
    new = FeatureStore(tmp_path / "cache", RECIPE)
    new.create()
    for part in source.parts:
        new.save(part, features_of(part))
    return new


def files(store):
    return sorted((store.folder / "parts").iterdir())


def again(store, message=None, recipe=RECIPE):
    return FeatureStore(
        store.folder, recipe, (lambda _: None) if message is None else message.append
    )


def test_pairs_bring_their_own_features(store, source):
    assert store.missing(source.parts) == store.missing(source.parts, thorough=True) == []
    for part in again(store).attached(source).parts:
        texts = list(dict.fromkeys(text for pair in part for text in pair.captions))
        for row, pair in enumerate(part):
            assert pair.cached.image.tolist() == [[8 * row] * WIDTH, [8 * row + 1] * WIDTH]
            assert pair.cached.seeds.tolist() == [10**15 + 8 * row, 10**15 + 8 * row + 1]
            assert pair.cached_view(1).tolist() == [8 * row + 1] * WIDTH
            assert [pair.cached_text(text)[0] for text in pair.captions] == [
                1000 + texts.index(text) for text in pair.captions
            ]
    features = again(store).load(source.parts[1])
    assert (features.bad, len(features.samples), features.nbytes) == (
        3,
        14,
        features_of(part).nbytes,
    )
    assert list(store.folder.rglob("*.part")) == []


def test_a_picture_that_changed_under_its_key_has_no_row(store, source, tmp_path):
    part = source.parts[0]
    features, pairs = store.load(part), list(part)
    other = type(pairs[0])(pairs[0].key, pairs[1].image, (*pairs[0].captions, "new"), "c")
    assert features.of(other) is None
    same = type(pairs[0])(pairs[0].key, pairs[0].image, (*pairs[0].captions, "new"), "c")
    assert [text is None for text in features.of(same).texts] == [False, False, True]
    assert other.cached_view(0) is None and other.cached_text("new") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["teachers"][0].update(weights="fedcba9876543210fedc"),
         "teachers[1].weights (was 0123456789abcdef…, is fedcba9876543210…)"),
        (lambda r: r["teachers"][0]["preprocess"].update(size=64),
         "teachers[1].preprocess.size (was 32, is 64)"),
        (lambda r: r["teachers"].append({"name": "b", "weights": "1"}),
         "teachers[2].weights (was None, is 1)"),
        (lambda r: r["views"].update(count=4), "views.count (was 2, is 4)"),
        (lambda r: r["views"].update(crop_scale=(0.5, 1.0)),
         "views.crop_scale (was [0.9, 1.0], is [0.5, 1.0])"),
        (lambda r: r.update(views=None), "views.count (was 2, is None)"),
    ],
)  # fmt: skip
def test_a_cache_of_another_recipe_is_refused(store, change, message):
    recipe = json.loads(json.dumps(RECIPE))
    change(recipe)
    with pytest.raises(DataError) as caught:
        again(store, recipe=recipe)
    text = str(caught.value)
    assert message in text and str(store.folder) in text and "\n" not in text
    assert text.endswith("delete it, or set data.feature_cache to another folder")


def test_a_teacher_may_have_moved(store, source):
    recipe = json.loads(json.dumps(RECIPE))
    recipe["teachers"][0]["name"] = "elsewhere"
    assert again(store, recipe=recipe).missing(source.parts) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "features.json cannot be read"),
        ("[1]", "features.json cannot be read"),
        ("[" * 100_000, "features.json cannot be read"),
        ('{"format": "tinyclip-edge-features", "version": 9}', "has format tinyclip-edge-features"),
    ],
)
def test_what_is_no_cache_of_ours_is_refused(store, content, message):
    (store.folder / "features.json").write_text(content)
    with pytest.raises(DataError, match=message):
        again(store)


@pytest.mark.parametrize("about", ["[" * 100_000, '{"bad": [{}]}', '{"bad": "a"}', '{"bad": -1}'])
def test_any_metadata_of_a_part_is_a_broken_part(store, source, about):
    path = files(store)[0]
    tensors = load_file(path)
    digest = feature_part._digest({name: tensors[name] for name in feature_part.NAMES})
    about = about.replace("}", f', "sha256": "{digest}"}}', 1) if about[0] == "{" else about
    save_file(tensors, path, metadata={"about": about})
    with pytest.raises(feature_part.BrokenPartError):
        feature_part.read_part(path, {})


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file is a file; set data\.feature_cache to a folder"):
        FeatureStore(tmp_path / "file", RECIPE)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "shallow", "message"),
    [(cut, [0], "is truncated or damaged"), (flipped, [], "has changed since it was written")],
)
def test_a_broken_part_is_named_and_missing(store, source, spoil, shallow, message):
    place = store._place(source.parts[0])[0]
    spoil(place)
    lines = []
    opened = again(store, lines)
    assert opened.missing(source.parts) == shallow  # a look at the file's size
    assert opened.missing(source.parts, thorough=True) == [0]
    assert opened.load(source.parts[0]) is None
    assert all(pair.cached is None for pair in opened.attached(source).parts[0])
    assert len(lines) == 1 and str(place) in lines[0] and message in lines[0]
    opened.save(source.parts[0], features_of(source.parts[0]))
    assert again(store).missing(source.parts, thorough=True) == []


def test_a_shard_that_changed_is_missing(store, source, tmp_path):
    samples = toy_samples()
    write_shard(tmp_path / "a-0.tar", samples[1:11])  # of the same name and size
    lines = []
    assert again(store, lines).missing(source.parts) == [0]
    assert lines == ["feature cache: a-0.tar differs from the cached one"]


def test_shards_of_one_name_do_not_meet(tmp_path):
    for folder, first in (("x", 0), ("y", 10)):
        write_shard(tmp_path / folder / "0.tar", toy_samples()[first : first + 10])
    source = open_source([str(tmp_path / "x/0.tar"), str(tmp_path / "y/0.tar")])
    assert source.parts[0].size == source.parts[1].size
    store = FeatureStore(tmp_path / "cache", RECIPE)
    store.create()
    for part in source.parts:
        store.save(part, features_of(part))
    assert len(files(store)) == 2
    assert all(pair.cached is not None for pair in store.attached(source))


def test_a_data_set_may_move(store, source, tmp_path):
    write_shard(tmp_path / "moved" / "a-0.tar", toy_samples()[:10])
    moved = open_source(str(tmp_path / "moved" / "a-0.tar"))
    assert part_mark(moved.parts[0]) == part_mark(source.parts[0])
    assert store.missing(moved.parts) == []


def test_a_part_of_another_cache_is_not_used(store, source, tmp_path):
    other = FeatureStore(tmp_path / "other", {**RECIPE, "width": 8})
    other.create()
    for path in files(store):
        (other.folder / "parts" / path.name).write_bytes(path.read_bytes())
    assert other.missing(source.parts) == [0, 1]
    assert other.load(source.parts[0]) is None


def test_a_full_disk_leaves_the_complete_parts(store, source, monkeypatch):
    before = [path.read_bytes() for path in files(store)]

    def full(_tensors, path, **_):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_part, "save_file", full)
    with pytest.raises(
        DataError, match=r"cannot be written \(.*No space left.*\); the parts in it"
    ):
        store.save(source.parts[0], features_of(source.parts[0]))
    assert [path.read_bytes() for path in files(store)] == before


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"feature cache .*cache cannot be written"):
        FeatureStore(tmp_path / "file" / "cache", RECIPE).create()
