"""The streaming source: order from the seed, distinct batches, resuming by reading past."""

from dataclasses import replace

import pytest
from toy_codec import toy_codec

from pair_shards import toy_samples, write_shard
from tinyclip_edge.data import StreamingPairs, open_source
from tinyclip_edge.data.cuts import Cut, Losses
from tinyclip_edge.errors import DataError

CODEC = toy_codec()


@pytest.fixture
def source(tmp_path):
    samples = toy_samples()
    for number in range(4):
        write_shard(tmp_path / f"s-{number}.tar", samples[number * 12 : number * 12 + 12])
    return open_source(str(tmp_path / "s-*.tar"))


def keys(source, start, count, seed=0, size=8, **options):
    stream = StreamingPairs(source, CODEC, **options).batches(start, size, seed=seed)
    return [next(stream).keys for _ in range(count)]


def test_an_epoch_visits_every_pair_once_in_a_new_order(source):
    epochs = keys(source, 0, 12, buffer=16)
    first, second = (sum(epochs[at : at + 6], ()) for at in (0, 6))
    assert len(set(first)) == 48
    assert set(second) == set(first)
    assert first != second


def test_the_order_is_of_the_seed(source):
    assert keys(source, 0, 6) == keys(source, 0, 6)
    assert keys(source, 0, 6) != keys(source, 0, 6, seed=1)


def test_starting_late_gives_the_same_batches(source):
    everything = keys(source, 0, 14, buffer=16)
    assert keys(source, 9, 5, buffer=16) == everything[9:]


def test_the_same_captions_after_a_resume(source):
    stream = StreamingPairs(source, CODEC).batches(0, 8, seed=0)
    late = StreamingPairs(source, CODEC).batches(5, 8, seed=0)
    for _ in range(5):
        next(stream)
    assert next(stream).captions == next(late).captions


def test_pairs_of_one_concept_wait_for_another_batch(tmp_path):
    path = write_shard(tmp_path / "a.tar", toy_samples((32, 40)))
    stream = StreamingPairs(open_source(str(path)), CODEC).batches(0, 24, seed=0)
    for _ in range(8):
        batch_keys = next(stream).keys
        assert len({key.rsplit("-", 1)[0] for key in batch_keys}) == 24


def test_more_pairs_than_concepts_in_a_batch_is_refused(source):
    twice = open_source(source.name)
    twice = replace(twice, parts=twice.parts * 2)  # 96 pairs of 48 concepts
    with pytest.raises(DataError, match=r"set data\.batch_distinct=false"):
        keys(twice, 0, 1, size=49, buffer=64)


def test_bad_images_make_a_batch_smaller(tmp_path):
    samples = toy_samples()
    samples[0][1]["png"] = b"nothing"
    path = write_shard(tmp_path / "a.tar", samples)
    pairs = StreamingPairs(open_source(str(path)), CODEC)
    stream = pairs.batches(0, 16, seed=0)
    assert sum(len(next(stream).keys) for _ in range(3)) == 47
    assert pairs.bad.keys == [samples[0][0]]
    (line,) = pairs.skipped()
    assert line.endswith(f"skipped 1 of 48 images that cannot be decoded: {samples[0][0]}")
    with pytest.raises(DataError, match="1 of 48 images cannot be decoded"):
        pairs.final_check()


def test_a_stream_within_the_share_passes_its_final_check(source):
    pairs = StreamingPairs(source, CODEC)
    next(pairs.batches(0, 8, seed=0))
    pairs.final_check()
    assert pairs.skipped() == []


@pytest.mark.parametrize("shards", [1, 4])
def test_workers_do_not_change_the_batches(tmp_path, shards):
    for number in range(shards):
        write_shard(tmp_path / f"w-{number}.tar", toy_samples()[number::shards])
    source = open_source(str(tmp_path / "w-*.tar"))
    one, many = (keys(source, 0, 8, buffer=16, workers=workers) for workers in (1, 9))
    assert one == many


def test_shares_of_an_epoch_join_to_it_and_decode_their_own(source):
    all_batches = keys(source, 0, 6)
    shares = []
    for rows in (slice(0, 4), slice(4, 8)):
        pairs = StreamingPairs(source, CODEC)
        stream = pairs.batches(0, 8, seed=0, rows=rows)
        shares.append([next(stream).keys for _ in range(6)])
        assert pairs.counted[:2] == ([], 24)
    assert [one + two for one, two in zip(*shares, strict=True)] == all_batches
    assert len({key for batch in all_batches for key in batch}) == 48


def test_what_shares_counted_adds_up(source):
    pairs = StreamingPairs(source, CODEC)
    one, other = Cut(12, 1), Cut(7, 0)
    first, second = Losses({"x.tar": one}), Losses({"x.tar": one, "y.tar": other})
    pairs.add_up([(["a"], 300, first), (["b"], 297, second)])
    assert pairs.counted == (["a", "b"], 597, second)
    assert pairs.skipped()[:2] == [
        "shard x.tar is truncated after 12 samples; the incomplete one is skipped",
        "shard y.tar is truncated after 7 samples",
    ]
    pairs.final_check()
    pairs = StreamingPairs(open_source(source.name), CODEC)
    pairs.add_up([(["a"], 100, Losses()), (["b"], 99, Losses())])
    with pytest.raises(DataError, match="2 of 199"):
        pairs.final_check()
