"""The processes of one training run: the rows of each, the one that writes, and collectives.

In a single process every method is the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.launcher import check_batch

Item = TypeVar("Item")


class DistributedContext:
    """This process among those of a launcher, according to torch.distributed.

    Every process must call the same methods in the same order.
    """

    def __init__(self) -> None:
        several = distributed.is_available() and distributed.is_initialized()
        self.number: int = distributed.get_rank() if several else 0
        self.count: int = distributed.get_world_size() if several else 1
        cuda = several and "nccl" in distributed.get_backend()
        self._device = torch.device("cuda", torch.cuda.current_device()) if cuda else None

    @property
    def main(self) -> bool:
        """Whether this process evaluates, writes and reports."""
        return self.number == 0

    def check_batch(self, size: int) -> None:
        """Raise ConfigError if a batch cannot be divided evenly."""
        check_batch(size, self.count)

    def rows(self, size: int) -> slice:
        """Return this process' rows of a batch of size ``size``."""
        share = size // self.count
        return slice(self.number * share, (self.number + 1) * share)

    def own_rows(self, size: int, counts: Sequence[int] | None) -> slice:
        """Return this process' rows of a gathered batch of ``size``, divided by ``counts``."""
        if counts is None:
            return self.rows(size)
        start = sum(counts[: self.number])
        return slice(start, start + counts[self.number])

    def counts(self, rows: int) -> tuple[int, ...] | None:
        """Return each process' number of rows if they may differ; else None."""
        if self.count == 1:
            return None
        counts = torch.zeros(self.count, dtype=torch.int64, device=self._device)
        counts[self.number] = rows
        distributed.all_reduce(counts)
        return tuple(counts.tolist())

    def all_reduce_max(self, value: int) -> int:
        """Return the maximum over all processes."""
        if self.count == 1:
            return value
        largest = torch.tensor(value, device=self._device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def all_gather(self, item: Item) -> list[Item]:
        """Return the items of all processes, in the order of the processes."""
        if self.count == 1:
            return [item]
        gathered = [item] * self.count
        distributed.all_gather_object(gathered, item)
        return gathered

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Context that all processes leave together; a TinyClipError in one is raised in all."""
        error: TinyClipError | None = None
        try:
            yield
        except TinyClipError as own_error:
            if self.count == 1:
                raise
            error = own_error
        if self.all_reduce_max(int(error is not None)):
            self.fail(error)

    def on_main(self, work: Callable[[], object]) -> None:
        """Run ``work`` on the first process while the others wait; all of them raise its error."""
        with self.agreed():
            if self.main:
                work()

    def fail(self, error: TinyClipError | None) -> None:
        """Raise the error of the first process that has one."""
        for number, other in enumerate(self.all_gather(error)):
            if other is not None:
                raise other if number == 0 else type(other)(f"process {number}: {other}")

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients outside DistributedDataParallel over all processes."""
        grads = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not grads:
            return
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        flat /= self.count
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad))
            start += grad.numel()

    @torch.no_grad()
    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first process."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def same_noise(self, device: torch.device) -> None:
        """Set the generator of the device to its state on the first process."""
        if self.count == 1:
            return
        cuda = device.type == "cuda"
        state = torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()
        state = state.to(self._device)
        distributed.broadcast(state, 0)
        if cuda:
            torch.cuda.set_rng_state(state.cpu(), device)
        else:
            torch.set_rng_state(state.cpu())


def disband() -> None:
    """End the process group, so that torch does not warn about it at exit."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
