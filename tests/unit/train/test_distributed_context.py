"""Shares of a batch, and what a single process does without a group."""

from __future__ import annotations

import pytest
import torch

from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.train.distributed import DistributedContext


def of(number, count):
    distributed = DistributedContext()
    distributed.number, distributed.count = number, count
    return distributed


def test_shares_join_to_the_batch():
    batch = list(range(12))
    shares = [batch[of(number, 4).rows(12)] for number in range(4)]
    assert shares == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize(
    ("size", "count", "message"),
    [(30, 4, "among 4 processes; set it to 28 or 32,"), (3, 8, "among 8 processes; set it to 8,")],
)
def test_a_batch_that_leaves_a_remainder_is_refused(size, count, message):
    with pytest.raises(ConfigError, match=message):
        of(0, count).check_batch(size)
    of(0, count).check_batch(size * count)


def test_one_process_agrees_with_itself():
    distributed = DistributedContext()
    assert (distributed.number, distributed.count, distributed.main) == (0, 1, True)
    assert distributed.counts(5) is None
    assert (distributed.all_reduce_max(3), distributed.all_gather("a")) == (3, ["a"])
    assert [1, 2][distributed.rows(2)] == [1, 2]
    state = torch.get_rng_state()
    distributed.same_noise(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(DataError, match="gone"), distributed.agreed():
        raise DataError("gone")
