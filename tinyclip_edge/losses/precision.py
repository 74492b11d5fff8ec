"""The precision in which losses are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32; leave float32 and float64 unchanged."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
