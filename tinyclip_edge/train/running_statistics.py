"""Running statistics of batch norms, which a forward pass changes before its loss is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """Copies a model's running statistics before each step; a ViT has none.

    A step that is skipped because its loss is not finite must give them back: NaN would stay in
    them for good, while weights are unharmed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._saved: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def save(self) -> None:
        """Copy what the model has now."""
        self._saved = [(each, each.clone()) for norm in self._norms for each in norm.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model back what it had when it was copied."""
        for buffer, saved in self._saved:
            buffer.copy_(saved)
