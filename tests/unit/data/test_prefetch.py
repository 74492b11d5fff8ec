"""Batches made by a thread: their order, their errors, their positions, and no thread left."""

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.data import Batch, PairMemory, Prefetch, StreamingPairs, open_source
from tinyclip_edge.data.prefetch import AHEAD
from tinyclip_edge.errors import DataError

CODEC = SimpleNamespace(decode=lambda _: torch.zeros(3, 1, 1, dtype=torch.uint8))


def running():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@dataclass
class Source:
    """Numbered batches; knows how many it made, and whether it was closed."""

    count: int = 0
    closed: bool = False
    fails_at: int | None = None

    def batches(self):
        try:
            while self.count != self.fails_at:
                self.count += 1
                yield Batch((str(self.count),), torch.zeros(1, 3, 1, 1, dtype=torch.uint8), ("",))
            raise DataError("broken")
        finally:
            self.closed = True


def until(condition):
    while not condition():  # the limit of the test ends it otherwise
        time.sleep(0.005)


def test_batches_come_in_order_and_no_more_than_the_steps():
    source = Source()
    with Prefetch(source.batches(), range(3, 8), lambda: None) as feed:
        assert [batch.keys for batch in feed] == [(str(n),) for n in range(1, 6)]
        with pytest.raises(StopIteration):
            next(feed)
    assert source.count == 5
    assert source.closed
    assert running() == []


def test_so_many_are_ready_before_they_are_needed():
    source = Source()
    with Prefetch(source.batches(), range(100), lambda: None) as feed:
        until(lambda: source.count == AHEAD)
        time.sleep(0.05)
        assert source.count == AHEAD
        next(feed)
        until(lambda: source.count == AHEAD + 1)
    assert source.closed
    assert running() == []


def test_an_error_comes_where_it_stood():
    source = Source(fails_at=4)
    with Prefetch(source.batches(), range(100), lambda: None) as feed:
        until(lambda: source.count == AHEAD)
        assert [next(feed).keys for _ in range(4)] == [(str(n),) for n in range(1, 5)]
        for _ in range(2):
            with pytest.raises(DataError, match="broken"):
                next(feed)
    assert running() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, RuntimeError])
def test_no_thread_remains_after_a_run_that_fails(error):
    source = Source()
    with pytest.raises(error), Prefetch(source.batches(), range(100), lambda: None) as feed:
        next(feed)
        raise error
    assert source.closed
    assert running() == []


@pytest.mark.parametrize("position", [1, 5, 13])
def test_a_position_is_that_of_the_batch_in_use_and_of_the_one_before(tmp_path, position):
    for number in range(3):
        write_shard(tmp_path / f"s-{number}.tar", toy_samples()[number * 16 : number * 16 + 16])
    source = open_source(str(tmp_path / "s-*.tar"))
    pairs = StreamingPairs(source, CODEC, buffer=8)
    with Prefetch(pairs.batches(0, 4, seed=1), range(99), lambda: pairs.position) as feed:
        keys = [next(feed).keys for _ in range(position + 1)]
        at = feed.position(position).plain()
        assert feed.position(position + 1) is not None
        assert feed.position(position + 2) is feed.position(position - 1) is None
    again = StreamingPairs(source, CODEC, buffer=8)
    assert next(again.batches(position, 4, seed=1, position=at)).keys == keys[position]


def test_pairs_in_memory_are_the_same_by_either_way(tmp_path):
    path = write_shard(tmp_path / "a.tar", toy_samples())
    pairs = PairMemory.load(open_source(str(path)), CODEC)
    with Prefetch(pairs.batches(5, 8, seed=1), range(5, 30), lambda: None) as feed:
        content = [(batch.keys, batch.captions) for batch in feed]
    batches = [pairs.batch(step, 8, seed=1) for step in range(5, 30)]
    assert content == [(batch.keys, batch.captions) for batch in batches]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_pixels_are_pinned_for_a_gpu():
    with Prefetch(Source().batches(), range(3), lambda: None, pin=True) as feed:
        assert next(feed).pixels.is_pinned()
