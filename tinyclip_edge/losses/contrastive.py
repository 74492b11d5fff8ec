"""CLIP's contrastive objective: match each picture with its caption within the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tinyclip_edge.losses.precision import at_least_float32


def contrastive_loss(image: Tensor, text: Tensor, *, scale: float | Tensor) -> Tensor:
    """Return the symmetric cross entropy with row i of ``image`` matching row i of ``text``.

    Features are ``[B, D]``, unit norm, of the global batch. Float32 even under autocast.
    """
    with torch.autocast(image.device.type, enabled=False):
        if isinstance(scale, Tensor):
            scale = at_least_float32(scale)
        logits = scale * (at_least_float32(image) @ at_least_float32(text).T)
        labels = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
