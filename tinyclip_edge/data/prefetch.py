"""Batches prepared by a thread while earlier steps run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import torch

from tinyclip_edge.data.memory import Batch
from tinyclip_edge.data.stream import StreamPosition

AHEAD = 2  # batches ready in advance
PATIENCE = 10.0  # seconds for the thread to end; it may be waiting for a server
Where = StreamPosition | None


class Prefetch(Iterator[Batch]):
    """The batches of ``steps`` in order; an error of ``batches`` is raised at its step.

    On leaving the context the thread ends and ``batches`` is closed if it has ``close``. The thread
    calls ``where`` after each batch for its position in the stream. ``pin`` puts pixels into
    page-locked memory, from which the current CUDA device can copy them while it computes.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        steps: range,
        where: Callable[[], Where],
        *,
        pin: bool = False,
    ) -> None:
        self._batches = batches
        self._steps = steps
        self._where = where
        self._device = torch.cuda.current_device() if pin else None
        self._ready: deque[tuple[Batch, Where] | BaseException] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._done = steps.start
        self._positions: deque[tuple[int, Where]] = deque(maxlen=2)
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._closing = True
            self._ready.clear()
            self._change.notify_all()
        self._thread.join(PATIENCE)

    def __next__(self) -> Batch:
        with self._change:
            self._change.wait_for(lambda: self._ready)
            item = self._ready[0]
            if isinstance(item, BaseException):  # not removed, because every further call raises it
                raise item
            self._ready.popleft()
            self._change.notify_all()
        batch, position = item
        self._done += 1
        self._positions.append((self._done, position))
        return batch

    def position(self, done: int) -> Where:
        """Return the position after ``done`` steps, for the last two batches; None for others."""
        return dict(self._positions).get(done)

    def _fill(self) -> None:
        if self._device is not None:
            torch.cuda.set_device(self._device)  # a new thread would use the first device
        try:
            for batch in islice(self._batches, len(self._steps)):
                if not self._enqueue((self._pinned(batch), self._where())):
                    break
            else:
                self._enqueue(StopIteration())
        except BaseException as error:  # raised in __next__
            self._enqueue(error)
        finally:
            close = getattr(self._batches, "close", None)
            if close is not None:
                close()

    def _pinned(self, batch: Batch) -> Batch:
        if self._device is None:
            return batch
        return replace(batch, pixels=batch.pixels.pin_memory())

    def _enqueue(self, item: tuple[Batch, Where] | BaseException) -> bool:
        """Add an item and wait until there is room for another; False once the context ends."""
        with self._change:
            self._ready.append(item)
            self._change.notify_all()
            self._change.wait_for(lambda: self._closing or len(self._ready) < AHEAD)
            return not self._closing
