"""CLIP's contrastive objective: match each picture with its caption within the batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.losses.objective import EmbeddedBatch, TermValue
from tinyclip_edge.losses.similarity import pair_logits


def contrastive_loss(image: Tensor, text: Tensor, *, scale: float | Tensor) -> Tensor:
    """Return the symmetric cross entropy with row i of ``image`` matching row i of ``text``.

    Features are ``[B, D]``, unit norm, of the global batch. Float32 even under autocast.
    """
    with torch.autocast(image.device.type, enabled=False):
        logits = pair_logits(image, text, scale)
        labels = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def one_way_contrastive_loss(anchors: Tensor, others: Tensor, *, scale: float | Tensor) -> Tensor:
    """Return the cross entropy of each of ``anchors [B, D]`` over all ``others [B, D]``."""
    with torch.autocast(anchors.device.type, enabled=False):
        logits = pair_logits(anchors, others, scale)
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


class ContrastiveTerm:
    """CLIP's objective as a term of an objective."""

    modules: Mapping[str, nn.Module] = {}

    def __init__(self, student_width: int, teacher_width: int) -> None:
        pass

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the loss of the student's embeddings alone."""
        return TermValue(contrastive_loss(*batch.student, scale=batch.student_scale))
