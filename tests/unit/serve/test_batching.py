"""Requests that come together share batches; none gets another's rows."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinyclip_edge.serve.batching import Batcher
from tinyclip_edge.serve.errors import RequestError


def rows(items):
    return np.array([[float(item)] for item in items], dtype=np.float32)


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_what_waits_is_embedded_together_in_order(executor):
    sizes: list[int] = []
    gate = threading.Event()

    def embed(items):
        gate.wait(10)
        return rows(items)

    async def run():
        batcher = Batcher(embed, executor, batch=4, waiting=100, observe=sizes.append)
        first = asyncio.create_task(batcher([0]))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher([10 * n, 10 * n + 1])) for n in range(1, 4)]
        await asyncio.sleep(0.01)
        assert batcher.waiting == 6
        gate.set()
        return await asyncio.gather(first, *others)

    results = asyncio.run(run())
    assert [result.ravel().tolist() for result in results] == [[0], [10, 11], [20, 21], [30, 31]]
    assert sizes == [1, 4, 2]


def test_a_full_queue_refuses_and_goes_on(executor):
    async def run():
        batcher = Batcher(rows, executor, batch=2, waiting=3)
        with pytest.raises(RequestError, match="0 inputs are waiting") as refusal:
            await batcher([1, 2, 3, 4])
        assert refusal.value.status == 503 and refusal.value.headers == {"Retry-After": "1"}
        return await batcher([5, 6, 7])

    assert asyncio.run(run()).ravel().tolist() == [5, 6, 7]


def test_a_cancelled_request_does_not_stop_the_others(executor):
    gate = threading.Event()
    embedded: list[int] = []

    def embed(items):
        gate.wait(10)
        embedded.extend(items)
        return rows(items)

    async def run():
        batcher = Batcher(embed, executor, batch=8, waiting=100)
        tasks = [asyncio.create_task(batcher([n])) for n in range(1)]
        await asyncio.sleep(0.01)
        gone, stays = asyncio.create_task(batcher([7])), asyncio.create_task(batcher([8]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(*tasks, stays)

    assert [result.item() for result in asyncio.run(run())] == [0, 8]
    assert embedded == [0, 8]


def test_a_failing_batch_fails_its_own_requests_only(executor):
    def embed(items):
        if 13 in items:
            raise ValueError("thirteen")
        return rows(items)

    async def run():
        batcher = Batcher(embed, executor, batch=1, waiting=100)
        return await asyncio.gather(batcher([13]), batcher([14]), return_exceptions=True)

    first, second = asyncio.run(run())
    assert isinstance(first, ValueError) and second.item() == 14
