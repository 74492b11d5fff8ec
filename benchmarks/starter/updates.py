"""One update of a teacher in training: its optimizers, their step, and the average of weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from starter.muon import Muon

CLIP = 1.0  # maximum norm of a gradient
EMA_DECAY = 0.997


def optimizers(
    named: Iterable[tuple[str, nn.Parameter]], extra: Sequence[nn.Parameter], lr: float, kind: str
) -> list[torch.optim.Optimizer]:
    """Return AdamW for everything but the blocks' matrices, which Muon has if ``kind`` says so."""
    muon_parameters: list[nn.Parameter] = []
    adam_parameters = list(extra)
    for name, p in named:
        matrix = p.ndim == 2 and "resblocks" in name and kind == "muon"
        (muon_parameters if matrix else adam_parameters).append(p)
    groups = [
        {"params": [p for p in adam_parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in adam_parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)
    return [adam, Muon(muon_parameters, lr=lr)] if muon_parameters else [adam]


def update(optimizers: Iterable[torch.optim.Optimizer], p: Iterable[Tensor], lr: float) -> None:
    """Step with a learning rate; the gradients of ``p`` are clipped, and then all are cleared."""
    torch.nn.utils.clip_grad_norm_(p, CLIP)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def average(pairs: Iterable[tuple[Tensor, Tensor]], step: int) -> None:
    """Move each average towards its weights after a step; early averages follow faster."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for slow, fast in pairs:
        slow.lerp_(fast, 1 - decay)
