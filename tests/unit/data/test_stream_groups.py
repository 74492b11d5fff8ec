"""Stream groups: whose parts are whose, the same batches for any readers, and going on."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.data import StreamingPairs, open_source
from tinyclip_edge.data.stream_groups import deal
from tinyclip_edge.errors import ConfigError, DataError

CODEC = SimpleNamespace(decode=lambda _: torch.zeros(3, 1, 1, dtype=torch.uint8))


@dataclass
class Watched:
    """A part that notes each time it is read, and how far."""

    part: object
    name: str
    log: list = field(default_factory=list)

    def __iter__(self):
        self.log.append(self.name)
        return iter(self.part)

    def __getattr__(self, name):
        return getattr(self.part, name)


@pytest.fixture
def shards(tmp_path):
    """Six shards of 8 to 24 pairs, 96 in all, of 48 concepts with two pictures each."""
    samples = np.random.default_rng(0).permutation(np.array(toy_samples((32, 40)), dtype=object))
    start = 0
    for number, count in enumerate((8, 16, 24, 8, 16, 24)):
        write_shard(tmp_path / f"s-{number}.tar", samples[start : start + count].tolist())
        start += count
    return str(tmp_path / "s-*.tar")


def watched(pattern):
    log = []
    source = open_source(pattern)
    parts = tuple(Watched(part, part.path.name, log) for part in source.parts)
    return replace(source, parts=parts), log


def draw(pattern, count, *, start=0, rows=slice(None), place=None, size=8, **options):
    """Keys and captions of some batches, the log of reads, and the position after the last."""
    distinct = options.pop("distinct", True)
    source, log = watched(pattern)
    pairs = StreamingPairs(source, CODEC, **options)
    stream = pairs.batches(start, size, seed=7, distinct=distinct, rows=rows, position=place)
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return (
        [list(zip(b.keys, b.captions, strict=True)) for b in batches],
        log,
        pairs.position.plain(),
    )


def joined(shares):
    """The batches of which processes have these shares."""
    return [[pair for part in parts for pair in part] for parts in zip(*shares, strict=True)]


def reference(parts, seed, size, buffer, count):
    """The order of a stream that is not dealt, written as plainly as can be."""

    def shuffled():
        epoch = 0
        while True:
            random = np.random.default_rng([seed, 0, epoch])
            pool = []
            for part in random.permutation(len(parts)):
                for pair in parts[int(part)]:
                    if len(pool) < buffer:
                        pool.append(pair)
                        continue
                    at = int(random.integers(len(pool)))
                    yield pool[at]
                    pool[at] = pair
            yield from (pool[int(at)] for at in random.permutation(len(pool)))
            epoch += 1

    pairs, waiting, draws = shuffled(), [], np.random.default_rng([seed, 2])
    for _ in range(count):
        group, later = [], []
        while len(group) < size:
            pair = waiting.pop(0) if waiting else next(pairs)
            repeats = pair.concept in {other.concept for other in group}
            (later if repeats else group).append(pair)
        waiting = later + waiting
        yield [
            (pair.key, pair.captions[int(draw * len(pair.captions))])
            for pair, draw in zip(group, draws.random(size), strict=True)
        ]


@pytest.mark.parametrize("buffer", [24, 2048])
def test_a_single_group_keeps_the_order_of_streams_without_stream_groups(shards, buffer):
    parts = [list(part) for part in open_source(shards).parts]
    expected = list(reference(parts, 7, 8, buffer, 40))  # more than three epochs of 96
    assert draw(shards, 40, buffer=buffer)[0] == expected


def test_parts_are_dealt_once():
    for stream_groups in (1, 2, 3, 7):
        dealt = deal(7, stream_groups, seed=3)
        assert sorted(part for group in dealt for part in group) == list(range(7))
        assert {len(group) for group in dealt} <= {7 // stream_groups, -(-7 // stream_groups)}
    assert deal(7, 1, seed=3) == [list(range(7))]
    assert deal(64, 4, seed=3) != deal(64, 4, seed=4)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_batches_do_not_depend_on_who_reads_the_stream_groups(shards, processes):
    all_batches, everything, _ = draw(shards, 20, stream_groups=4, buffer=12, size=8)
    share = 8 // processes
    shares, logs = [], []
    for number in range(processes):
        rows = slice(number * share, (number + 1) * share)
        part, log, _ = draw(shards, 20, rows=rows, stream_groups=4, buffer=12, size=8)
        shares.append(part)
        logs.append(set(log))
    assert joined(shares) == all_batches
    assert sum(map(len, logs)) == len(set().union(*logs)) == 6  # each part by one process
    assert set(everything) == set().union(*logs)


@pytest.mark.parametrize("processes", [3, 6])
def test_processes_that_do_not_divide_the_groups_read_those_they_touch(shards, processes):
    all_batches = draw(shards, 12, stream_groups=4, buffer=12, size=12)[0]
    share = 12 // processes
    shares = [
        draw(shards, 12, rows=slice(at, at + share), stream_groups=4, buffer=12, size=12)[0]
        for at in range(0, 12, share)
    ]
    assert joined(shares) == all_batches


def test_an_epoch_of_a_group_holds_each_of_its_pairs_once(shards):
    dealt = deal(6, 2, seed=7)
    parts = [list(part) for part in open_source(shards).parts]
    expected = [sorted(pair.key for at in group for pair in parts[at]) for group in dealt]
    batches = draw(shards, 40, stream_groups=2, buffer=12, size=8, distinct=False)[0]
    for group, keys in enumerate(expected):
        own = [key for batch in batches for key, _ in batch[4 * group : 4 * group + 4]]
        for epoch in range(2):
            assert sorted(own[epoch * len(keys) : (epoch + 1) * len(keys)]) == keys
    assert not set(expected[0]) & set(expected[1])


def test_concepts_are_distinct_within_a_group(shards):
    for batch in draw(shards, 30, stream_groups=2, buffer=24, size=12)[0]:
        for group in (batch[:6], batch[6:]):
            assert len({key.rsplit("-", 1)[0] for key, _ in group}) == 6


def test_more_groups_than_parts_or_an_uneven_share_is_refused(shards):
    pairs = StreamingPairs(open_source(shards), CODEC, stream_groups=7)
    with pytest.raises(ConfigError, match=r"data\.stream_groups 7 exceeds the 6 .*at most 6$"):
        next(pairs.batches(0, 14, seed=0))
    pairs = StreamingPairs(open_source(shards), CODEC, stream_groups=3)
    with pytest.raises(ConfigError, match=r"optim\.batch_size 8 cannot .* data\.stream_groups 3;"):
        next(pairs.batches(0, 8, seed=0))


def test_one_shard_serves_any_number_of_processes(tmp_path):
    pattern = str(write_shard(tmp_path / "a.tar", toy_samples()))
    all_batches = draw(pattern, 9, workers=1)[0]
    for processes in (2, 4, 8):
        share = 8 // processes
        shares = [
            draw(pattern, 9, rows=slice(at, at + share), workers=3)[0] for at in range(0, 8, share)
        ]
        assert joined(shares) == all_batches


@pytest.mark.parametrize("stream_groups", [1, 3])
@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("buffer", [24, 2048])
@pytest.mark.parametrize("step", [5, 17, 32])  # an epoch has 8 batches
def test_a_position_goes_on_exactly(shards, stream_groups, distinct, buffer, step):
    options = {"stream_groups": stream_groups, "distinct": distinct, "buffer": buffer, "size": 12}
    all_batches = draw(shards, 40, **options)[0]
    first, _, place = draw(shards, step, **options)
    resumed, _, end = draw(shards, 40 - step, start=step, place=place, **options)
    assert first + resumed == all_batches
    assert end == draw(shards, 40, **options)[2]


def test_pairs_that_wait_for_their_turn_are_in_the_position(shards):
    # 96 pairs of 48 concepts in batches of 44: nearly every batch leaves some waiting.
    all_batches = draw(shards, 20, size=44)[0]
    waited = 0
    for step in (3, 8, 15):
        place = draw(shards, step, size=44)[2]
        waited += len(place[0]["delayed"])
        assert draw(shards, 20 - step, start=step, place=place, size=44)[0] == all_batches[step:]
    assert waited > 0


def test_a_position_is_read_by_any_number_of_processes(shards):
    options = {"stream_groups": 4, "buffer": 12, "size": 8}
    all_batches = draw(shards, 24, **options)[0]
    place = {}
    for rows in (slice(0, 4), slice(4, 8)):
        place |= draw(shards, 13, rows=rows, **options)[2]
    assert sorted(place) == [0, 1, 2, 3]
    assert draw(shards, 11, start=13, place=place, **options)[0] == all_batches[13:]
    shares = [
        draw(shards, 11, start=13, rows=slice(at, at + 2), place=place, **options)[0]
        for at in range(0, 8, 2)
    ]
    assert joined(shares) == all_batches[13:]


def test_going_on_opens_the_parts_of_its_pairs_alone(tmp_path):
    samples = [(f"{n}-{key}", files) for n in range(4) for key, files in toy_samples()]
    for number in range(24):  # of 8 pairs
        write_shard(tmp_path / f"s-{number:02}.tar", samples[number * 8 : number * 8 + 8])
    pattern, options = str(tmp_path / "s-*.tar"), {"buffer": 8, "size": 4, "distinct": False}
    place = draw(pattern, 100, **options)[2]  # 400 of 192 a turn: in the third epoch
    state = place[0]
    assert state["epoch"] == 2
    lists = [*state["held"], *state["leaving"], *state["delayed"]]
    needed = {f"s-{part:02}.tar" for part, _ in lists}
    assert 0 < len(needed) < 8
    source, log = watched(pattern)
    stream = StreamingPairs(source, CODEC, buffer=8).batches(
        100, 4, seed=7, distinct=False, position=place
    )
    next(stream)
    stream.close()
    # Those of its pairs, and those that the three batches drawn so far go on with.
    assert needed <= set(log)
    assert len(log) <= len(needed) + 3
    source, log = watched(pattern)
    stream = StreamingPairs(source, CODEC, buffer=8).batches(100, 4, seed=7, distinct=False)
    next(stream)
    assert len(log) > 48  # without it: two epochs and more


def test_a_part_that_shrank_is_named(tmp_path):
    path = write_shard(tmp_path / "a.tar", toy_samples())
    place = draw(str(path), 2)[2]
    write_shard(path, toy_samples()[:5])
    with pytest.raises(DataError, match=r"part a\.tar no longer has a sample \d+"):
        draw(str(path), 1, start=2, place=place)


@pytest.mark.parametrize("name", ["epoch", "at", "taken", "read"])
@pytest.mark.parametrize("value", [1.0, True, -1, 2**60, "1", None])
def test_a_position_that_is_no_count_is_refused(tmp_path, name, value):
    path = str(write_shard(tmp_path / "a.tar", toy_samples()))
    place = draw(path, 2)[2]
    place[0][name] = value
    with pytest.raises(DataError, match="the checkpoint's position in it cannot be read"):
        draw(path, 1, start=2, place=place)


@pytest.mark.parametrize("groups", [1, 2])
def test_an_epoch_smaller_than_the_batch_is_refused_with_its_counts(tmp_path, groups):
    for number in range(2):
        write_shard(tmp_path / f"s-{number}.tar", toy_samples()[number * 10 : number * 10 + 10])
    messages = {
        1: r"^optim\.batch_size 22 exceeds the 20 pairs of .*; lower it$",
        2: r": stream group 1 of 2 has 10 pairs to fill 11 of optim\.batch_size 22; lower ",
    }[groups]
    with pytest.raises(DataError, match=messages):
        draw(str(tmp_path / "s-*.tar"), 1, size=22, stream_groups=groups)
    assert len(draw(str(tmp_path / "s-*.tar"), 1, size=20, stream_groups=groups)[0][0]) == 20


def test_batches_before_an_error_are_yielded(tmp_path):
    write_shard(tmp_path / "a.tar", toy_samples()[:40])
    (tmp_path / "b.tar").write_bytes(b"hello " * 200)
    pattern = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    pairs = StreamingPairs(open_source(pattern), CODEC, buffer=4)
    stream, batches = pairs.batches(0, 4, seed=2, distinct=False), []
    with pytest.raises(DataError, match=r"b\.tar is not a tar but text"):
        batches.extend(batch.keys for batch in stream)
    # Seed 2 reads a.tar first: of its 40 pairs 4 are still to draw from.
    assert [len(keys) for keys in batches] == [4] * 9
