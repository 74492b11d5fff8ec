"""CLIP's own objective: each picture finds its caption among the batch, and the reverse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(image: Tensor, text: Tensor, *, scale: float | Tensor) -> Tensor:
    """Return the symmetric cross entropy with row i of ``image`` matching row i of ``text``.

    Features are ``[B, D]``, unit norm, of the whole global batch. Float32 even under autocast.
    """
    with torch.autocast(image.device.type, enabled=False):
        if isinstance(scale, Tensor):
            scale = scale.float()
        logits = scale * (image.float() @ text.float().T)
        labels = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
