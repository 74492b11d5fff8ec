"""Join the features of all processes without cutting the gradient."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, distributed


class _Rows(Protocol):
    rows: int


class _AllGather(torch.autograd.Function):
    """Concatenation over ranks; backward sums what every rank's loss says about our rows.

    Written on the stable collectives: the functional ones change their names between releases.
    """

    @staticmethod
    def forward(ctx: _Rows, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, tensor.contiguous())
        ctx.rows = len(tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: _Rows, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total)
        start = distributed.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def gather_with_grad(tensor: Tensor) -> Tensor:
    """Return ``[world * B, D]`` of all processes in rank order; the identity with one process.

    Every process passes the same B. When each computes the loss of the whole batch and gradients
    are averaged over processes, as DistributedDataParallel does, the result is that of one process.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    if distributed.get_world_size() == 1:
        return tensor
    joined: Tensor = _AllGather.apply(tensor)
    return joined
