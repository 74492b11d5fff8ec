"""The precision that losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, anything finer as it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
