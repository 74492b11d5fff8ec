"""Join the features of all processes without cutting the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, distributed


class _Rows(Protocol):
    own: slice


class _AllGather(torch.autograd.Function):
    """Concatenation over ranks; backward sums what every rank's loss says about our rows.

    Written on the stable collectives: the functional ones change their names between releases.
    """

    @staticmethod
    def forward(ctx: _Rows, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        most, start = max(counts), sum(counts[: distributed.get_rank()])
        ctx.own = slice(start, start + len(tensor))
        if len(tensor) < most:  # the collective wants equal sizes
            tensor = torch.cat([tensor, tensor.new_zeros(most - len(tensor), *tensor.shape[1:])])
        parts = [torch.empty_like(tensor) for _ in counts]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: _Rows, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total)
        return total[ctx.own], None


def gather_with_grad(tensor: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Return the rows ``[B, D]`` of all processes in rank order; the identity with one process.

    Every process passes the same B, or ``counts``, the B of each. When each computes the loss of
    the whole batch and gradients are averaged over processes, as DistributedDataParallel does, the
    result is that of one process.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    if distributed.get_world_size() == 1:
        return tensor
    each = [len(tensor)] * distributed.get_world_size() if counts is None else counts
    joined: Tensor = _AllGather.apply(tensor, each)
    return joined
