"""Running statistics of batch norms, which a forward pass changes before its loss is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """Copies a model's running statistics before each step; a ViT has none.

    They must be restored after a step that is skipped because its loss is not finite: its weights
    are not updated, but NaN would stay in the statistics.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._saved: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def save(self) -> None:
        """Copy the model's current statistics."""
        self._saved = [(each, each.clone()) for norm in self._norms for each in norm.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copied statistics back to the model."""
        for buffer, saved in self._saved:
            buffer.copy_(saved)
