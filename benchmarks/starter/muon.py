"""Muon in float32, with equal shapes batched; torch's runs in bfloat16, slow on most CPUs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # of the quintic iteration, https://kellerjordan.github.io/posts/muon


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate the nearest orthogonal matrices of [N, rows, columns]."""
    a, b, c = COEFFICIENTS
    flip = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if flip else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if flip else x


RELATIVE_RATE = 0.5  # size of an update's elements for a rate of 1; AdamW's is 0.2 to 0.4


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; updates are near AdamW's size, so that both share a learning rate.

    A stacked query-key-value matrix [3 D, D] is treated as three [D, D].
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"])
                parts = 3 if p.shape[0] == 3 * p.shape[1] else 1
                for matrix, part in zip(update.chunk(parts), p.chunk(parts), strict=True):
                    shapes[matrix.shape[0], matrix.shape[1]].append((part, matrix))
            for (rows, columns), pairs in shapes.items():
                deltas = orthogonalize(torch.stack([matrix for _, matrix in pairs]))
                scale = RELATIVE_RATE * max(rows, columns) ** 0.5
                for (part, _), delta in zip(pairs, deltas, strict=True):
                    part.mul_(1 - group["lr"] * group["weight_decay"])
                    part.add_(delta, alpha=-group["lr"] * scale)
