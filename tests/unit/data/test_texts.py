"""Texts without pictures: how they are read, drawn and kept apart from pictures."""

import numpy as np
import pytest
from toy_codec import toy_codec

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import DataConfig
from tinyclip_edge.config.sources import TextsConfig
from tinyclip_edge.data import PairMemory, StreamingPairs
from tinyclip_edge.data.opening import open_training
from tinyclip_edge.data.texts import PART, Texts, open_texts
from tinyclip_edge.errors import DataError

CODEC = toy_codec()


def numbered(count):
    return Texts("texts", tuple(f"text {number}" for number in range(count)))


@pytest.fixture
def data(tmp_path):
    write_shard(tmp_path / "a.tar", toy_samples((32,))[:24])
    write_shard(tmp_path / "b.tar", toy_samples((32,))[24:])
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text {number}\n" for number in range(40)))
    return DataConfig(images=str(tmp_path / "*.tar"), texts=str(texts))


def test_a_file_has_a_text_a_line_and_blank_lines_do_not_count(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffa cat \r\n\r\n  \na dog\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("a dog\na bird")
    texts = open_texts([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    assert texts.lines == ("a cat", "a dog", "a bird")
    assert texts.notes() == [
        f"{tmp_path / 'a.txt'}, {tmp_path / 'b.txt'}: 1 repeated texts count once"
    ]


def test_labels_fill_every_template(tmp_path):
    config = TextsConfig(labels=["cat", " big  dog "], templates=["{}", "a photo of a {}."])
    lines = ("cat", "a photo of a cat.", "big dog", "a photo of a big dog.")
    assert open_texts(config).lines == lines
    (tmp_path / "labels.txt").write_text("cat\nbig dog\n")
    from_file = TextsConfig(labels=str(tmp_path / "labels.txt"), templates=config.templates)
    assert open_texts(from_file).lines == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file "),
        (b"\n \n", "is empty; write one per line"),
        (b"a cat\na cat\n", "has a single text, 'a cat'"),
        (b"a c\xe3t\n", "it is not UTF-8"),
    ],
)
def test_texts_that_cannot_be_used_are_one_line(tmp_path, content, message):
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        open_texts(str(path))
    assert "\n" not in str(error.value)
    assert "texts.txt" in str(error.value)


def test_an_epoch_of_texts_has_each_at_most_once():
    texts = numbered(50)
    epoch = np.concatenate([texts.draw(3, step, 16) for step in range(3)])
    assert len(set(epoch.tolist())) == 48
    assert set(texts.draw(3, 3, 16).tolist()) != set(epoch[:16].tolist())
    again = numbered(50)
    assert np.array_equal(again.draw(3, 2, 16), epoch[32:])  # no step before it was drawn


def test_fewer_texts_than_a_batch_are_repeated_equally_often():
    counts = np.bincount(numbered(5).draw(0, 7, 16))
    assert sorted(counts.tolist()) == [3, 3, 3, 3, 4]


def test_texts_and_pictures_are_drawn_independently(data):
    memory = PairMemory.load(open_training(data), CODEC)
    batches = [memory.batch(step, 12, seed=0) for step in range(400)]
    assert all(len(set(batch.keys)) == len(set(batch.captions)) == 12 for batch in batches)
    table = np.zeros((48, 40))
    for batch in batches:
        np.add.at(table, (batch.image_ids, batch.caption_ids), 1)
    # 4,800 draws over 1,920 cells: chi-squared of independence, 1,833 degrees of freedom.
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    chi_squared = ((table - expected) ** 2 / expected).sum()
    assert abs(chi_squared - 1833) < 4 * np.sqrt(2 * 1833)


def test_pictures_are_drawn_as_without_texts_and_texts_as_without_pictures(data):
    memory = PairMemory.load(open_training(data), CODEC)
    fewer = PairMemory.load(
        open_training(data.model_copy(update={"texts": TextsConfig(labels=["x", "y"])})), CODEC
    )
    batch, other = memory.batch(2, 8, seed=5), fewer.batch(2, 8, seed=5)
    assert batch.keys == other.keys
    drawn = open_texts(data.texts).draw(5, 2, 8)
    assert batch.captions == tuple(f"text {number}" for number in drawn)


def test_captions_of_the_pictures_are_ignored(data):
    memory = PairMemory.load(open_training(data), CODEC)
    assert memory.captions == tuple(f"text {number}" for number in range(40))
    assert memory.largest_batch(distinct=True) == 48


def test_a_stream_draws_the_same_texts_and_each_process_its_rows(data):
    source = open_training(data)
    memory, texts = PairMemory.load(source, CODEC), source.texts
    whole = StreamingPairs(source, CODEC, buffer=8).batches(0, 8, seed=1)
    half = StreamingPairs(source, CODEC, buffer=8).batches(0, 8, seed=1, rows=slice(4, 8))
    for step in range(8):
        batch, share = next(whole), next(half)
        assert batch.captions == memory.batch(step, 8, seed=1).captions
        assert batch.captions == tuple(texts.lines[i] for i in texts.draw(1, step, 8))
        assert share.keys == batch.keys[4:]
        assert share.captions == batch.captions[4:]


@pytest.mark.parametrize("streamed", [False, True])
def test_without_texts_a_batch_has_pictures_alone(data, streamed):
    source = open_training(data.model_copy(update={"texts": None}))
    pairs = StreamingPairs(source, CODEC) if streamed else PairMemory.load(source, CODEC)
    batch = next(pairs.batches(0, 8, seed=0))
    assert len(batch.keys) == len(batch.pixels) == 8
    assert batch.captions == ()
    assert batch.text_features is None


def test_the_order_of_a_stream_depends_on_its_texts(data):
    other = data.model_copy(update={"texts": TextsConfig(labels=["x", "y"])})
    assert open_training(data).fingerprint != open_training(other).fingerprint


def test_parts_of_a_feature_cache_have_all_texts_once():
    parts = numbered(PART + 3).parts
    assert [len(part.texts) for part in parts] == [PART, 3]
    assert len({part.fingerprint for part in parts}) == 2
    assert [list(part) for part in parts] == [[], []]


def test_broken_pictures_are_counted_as_ever(tmp_path):
    samples = toy_samples((32,))
    samples[3][1]["png"] = b"no picture"
    for key in (f"more-{number}" for number in range(60)):
        samples.append((key, dict(samples[0][1])))
    write_shard(tmp_path / "a.tar", samples)
    config = DataConfig(images=str(tmp_path / "a.tar"), texts=TextsConfig(labels=["x", "y"]))
    memory = PairMemory.load(open_training(config), CODEC)
    assert len(memory) == 107
    assert "skipped 1 of 108 images" in memory.skipped()[0]
    samples[4][1]["png"] = b"no picture"
    write_shard(tmp_path / "a.tar", samples)
    with pytest.raises(DataError, match="2 of 108 images cannot be decoded"):
        PairMemory.load(open_training(config), CODEC)


def test_pictures_need_no_captions(tmp_path):
    (tmp_path / "cat").mkdir()
    for key, files in toy_samples((32,))[:4]:
        (tmp_path / "cat" / f"{key}.png").write_bytes(files["png"])
    (tmp_path / "table.jsonl").write_text(
        "".join(f'{{"image": "cat/{key}.png"}}\n' for key, _ in toy_samples((32,))[:4])
    )
    texts = TextsConfig(labels=["x", "y"])
    for images in (tmp_path / "cat", tmp_path, tmp_path / "table.jsonl"):
        source = open_training(DataConfig(images=str(images), texts=texts))
        assert len(PairMemory.load(source, CODEC)) == 4
