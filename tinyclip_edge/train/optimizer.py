"""AdamW, its learning-rate schedule, and an update that skips steps that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tinyclip_edge.config import OptimConfig
from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.train.distributed import DistributedContext

if TYPE_CHECKING:
    from accelerate import Accelerator

MAX_SKIPPED = 20  # consecutive steps
RESTART = 0.1  # share of the learning rate directly after pruning


def make_optimizer(
    model: nn.Module, config: OptimConfig, extra_groups: Sequence[dict[str, Any]] = ()
) -> torch.optim.AdamW:
    """Return AdamW for all trainable parameters; vectors and the logit scale do not decay.

    ``extra_groups`` come after the model's groups; one with ``constant_lr`` ignores the schedule.
    """
    decay: list[Tensor] = []
    no_decay: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector = parameter.ndim < 2 or name.endswith("logit_scale")
            (no_decay if vector else decay).append(parameter)
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
        *extra_groups,
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def lr_at(step: int, config: OptimConfig) -> float:
    """Return the rate of step ``step`` (from 0): linear warm-up, then a cosine to the end."""
    warmup = config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / (config.steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


@dataclass(frozen=True, slots=True)
class Restart:
    """A gradual return to the learning-rate schedule after pruning."""

    step: int  # of the run, at which weights were pruned
    steps: int  # until the rate reaches the schedule again

    def factor(self, step: int) -> float:
        """Return the share of the scheduled rate for step ``step`` (from 0)."""
        since = step - self.step
        return 1.0 if since >= self.steps else RESTART + (1 - RESTART) * since / self.steps


@dataclass(slots=True)
class OptimizerStep:
    """One optimizer step; a non-finite loss or gradient never reaches the weights.

    With several processes, either all of them step or none.
    """

    accelerator: Accelerator
    optimizer: torch.optim.Optimizer
    parameters: list[nn.Parameter]
    config: OptimConfig
    first_step: int = 0  # of the run, at which the schedule starts
    restart: Restart | None = None
    unwrapped: list[nn.Parameter] = field(default_factory=list)  # not in accelerate's module
    skipped: int = 0  # over the whole run
    skipped_in_a_row: int = 0
    distributed: DistributedContext = field(default_factory=DistributedContext)

    def lr(self, number: int) -> float:
        """Return the scheduled learning rate of step ``number`` (from 0) of the run."""
        rate = lr_at(number - self.first_step, self.config)
        return rate if self.restart is None else rate * self.restart.factor(number)

    def step(
        self, loss: Tensor, number: int, after_backward: Callable[[], None] | None = None
    ) -> float | None:
        """Update with the rate of step ``number``; return the gradient norm, None if skipped.

        ``after_backward`` completes a backward pass that ended at the features of a batch. Raises
        TinyClipError after 20 consecutive skipped steps.
        """
        for group in self.optimizer.param_groups:
            if not group.get("constant_lr", False):
                group["lr"] = self.lr(number)
        finite = self._everywhere(bool(torch.isfinite(loss.detach())))
        norm = self._backward(loss, after_backward) if finite else math.nan
        if self._everywhere(math.isfinite(norm)):
            self.optimizer.step()
            self.skipped_in_a_row = 0
        else:
            # If another process' loss is not finite, its value is not known here.
            value = float(loss.detach())
            self._skip(number, value if finite or not math.isfinite(value) else math.nan, norm)
            norm = math.nan
        self.optimizer.zero_grad(set_to_none=True)
        return norm if math.isfinite(norm) else None

    def _everywhere(self, condition: bool) -> bool:
        return self.distributed.all_reduce_max(int(not condition)) == 0

    def _backward(self, loss: Tensor, after_backward: Callable[[], None] | None) -> float:
        self.accelerator.backward(loss)
        if after_backward is not None:
            after_backward()
        self.distributed.average_gradients(self.unwrapped)
        limit = math.inf if self.config.grad_clip is None else self.config.grad_clip
        return float(self.accelerator.clip_grad_norm_(self.parameters, limit))

    def _skip(self, number: int, loss: float, norm: float) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        scaler = self.accelerator.scaler
        if scaler is not None and math.isfinite(loss):
            scaler.update()  # fp16: the gradient overflowed, so the scale must be reduced
        if self.skipped_in_a_row >= MAX_SKIPPED:
            quantity = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
            raise TinyClipError(
                f"{quantity} at step {number + 1}: {MAX_SKIPPED} steps in a row were not finite, "
                f"all skipped; lower optim.lr ({self.config.lr:g}) or set run.precision=fp32"
            )


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that require gradients."""
    return [parameter for parameter in parameters if parameter.requires_grad]
