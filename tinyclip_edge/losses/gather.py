"""Collectives that preserve gradients: features of all processes, sums over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, distributed


class _GatherContext(Protocol):
    local_rows: slice


class _AllGather(torch.autograd.Function):
    """Concatenation over ranks; backward sums the gradients of all ranks for the local rows.

    Uses the stable collectives, since the functional ones are renamed between releases.
    """

    @staticmethod
    def forward(ctx: _GatherContext, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        largest, start = max(counts), sum(counts[: distributed.get_rank()])
        ctx.local_rows = slice(start, start + len(tensor))
        if len(tensor) < largest:  # the collective needs equal sizes
            tensor = torch.cat([tensor, tensor.new_zeros(largest - len(tensor), *tensor.shape[1:])])
        parts = [torch.empty_like(tensor) for _ in counts]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: _GatherContext, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total)
        return total[ctx.local_rows], None


class _AllReduce(torch.autograd.Function):
    """Sum over ranks; backward sums the gradients of all ranks."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


def sum_with_grad(tensor: Tensor) -> Tensor:
    """Return the sum of ``tensor [...]`` over all processes; the identity with one process.

    For losses that each process computes only for its own rows of the gathered features: if
    gradients are then averaged over processes, the result equals that of a single process.
    """
    if not _several():
        return tensor
    total: Tensor = _AllReduce.apply(tensor)
    return total


def gather_with_grad(tensor: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Return the rows ``[B, D]`` of all processes in rank order; the identity with one process.

    Every process passes equally many rows, or ``counts``, the number of rows of each rank. If every
    process computes the loss of the global batch and gradients are averaged over processes, as
    DistributedDataParallel does, the result equals that of a single process.
    """
    if not _several():
        return tensor
    counts_by_rank = [len(tensor)] * distributed.get_world_size() if counts is None else counts
    gathered: Tensor = _AllGather.apply(tensor, counts_by_rank)
    return gathered


def _several() -> bool:
    initialized = distributed.is_available() and distributed.is_initialized()
    return initialized and distributed.get_world_size() > 1
