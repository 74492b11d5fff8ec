"""Shared batches for concurrent requests: while the model computes one, the next one fills."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

import numpy as np

from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.serve.errors import RequestError

Item = TypeVar("Item")


class Batcher(Generic[Item]):
    """Embeds the items of several requests together, in order of arrival."""

    def __init__(
        self,
        embed: Callable[[list[Item]], Features],
        executor: Executor,
        *,
        batch: int,
        waiting: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        """``embed`` maps B items to ``[B, D]`` in ``executor``; ``observe`` gets each B.

        At most ``batch`` items are embedded at once, and at most ``waiting`` wait.
        """
        self._embed, self._executor = embed, executor
        self._batch, self._most, self._observe = batch, waiting, observe
        self._waiting: deque[tuple[Item, asyncio.Future[Features]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Number of items that are not in a batch yet."""
        return len(self._waiting)

    async def __call__(self, items: Sequence[Item]) -> Features:
        """Return ``[N, D]``; raise RequestError (503) when too many items are waiting already."""
        if self.waiting + len(items) > self._most:
            raise RequestError(
                f"the server is busy: {self.waiting} inputs are waiting; try again in a second", 503
            )
        loop = asyncio.get_running_loop()
        rows = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, rows, strict=True))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return np.stack(await asyncio.gather(*rows))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            size = min(self._batch, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(size)]
            taken = [pair for pair in taken if not pair[1].done()]  # without cancelled requests
            if not taken:
                continue
            self._observe(len(taken))
            try:
                features = await loop.run_in_executor(
                    self._executor, self._embed, [item for item, _ in taken]
                )
            except Exception as error:
                _settle(taken, error)
            else:
                for (_, row), vector in zip(taken, features, strict=True):
                    if not row.done():
                        row.set_result(vector)


def _settle(taken: Sequence[tuple[object, asyncio.Future[Features]]], error: Exception) -> None:
    for _, row in taken:
        if not row.done():
            row.set_exception(error)
