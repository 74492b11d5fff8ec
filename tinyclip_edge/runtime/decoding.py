"""Prepare pictures in threads while the model computes: in order, a bounded number ahead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tinyclip_edge.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")

MOST_THREADS = 4  # each uses 256 MB while it decodes a picture of 80 megapixels


def decoding_threads() -> int:
    """Return the number of threads that decode pictures beside the model."""
    return min(MOST_THREADS, os.cpu_count() or 1)


def prepared(
    jobs: Iterable[Job], prepare: Callable[[Job], Result], *, threads: int, ahead: int
) -> Iterator[tuple[Job, Result | DataError]]:
    """Yield each job with its result, or the DataError that ``prepare`` raised, in order.

    ``threads=0`` prepares each job on demand. At most ``ahead`` results wait. The calling thread
    iterates over ``jobs``.
    """

    def attempt(job: Job) -> Result | DataError:
        try:
            return prepare(job)
        except DataError as error:
            return error

    if threads == 0:
        yield from ((job, attempt(job)) for job in jobs)
        return
    waiting: deque[tuple[Job, Future[Result | DataError]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for job in jobs:
            waiting.append((job, pool.submit(attempt, job)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
