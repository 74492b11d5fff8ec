"""Random weights for a module that was built on the meta device."""

from __future__ import annotations

import torch
from torch import nn


def filled(module: nn.Module) -> nn.Module:
    """Move a module of meta tensors to the current device, with random weights and fresh norms."""
    module = module.to_empty(device=torch.empty(0).device)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith(".weight")):
                tensor.fill_(1)
            elif name.endswith(("running_mean", "num_batches_tracked")):
                tensor.zero_()
            else:
                tensor.normal_(std=0.02)
    return module
