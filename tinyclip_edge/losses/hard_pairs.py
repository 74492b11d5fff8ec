"""Weights of pairs by how hard they are, after Multi-Similarity (arXiv 1904.06627)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class HardPairs:
    """General pair weighting of one positive pair an anchor and all others as negatives.

    Among an anchor's negatives a pair weighs as exp(``negative`` * similarity), among a batch's
    positives as sigmoid(-``positive`` * (similarity - ``threshold``)). Each group has a mean of 1,
    so that a loss keeps its size; the threshold of negatives cancels there.
    """

    negative: float
    positive: float
    threshold: float

    @torch.no_grad()
    def weights(self, similarity: Tensor, positives: Tensor, first: int) -> Tensor:
        """Return ``[R, B]`` weights of cosine ``similarity [R, B]`` of R anchors with all B others.

        ``positives [B]`` are the similarities of all pairs that belong together; the anchors are
        those from row ``first`` on.
        """
        rows = torch.arange(len(similarity), device=similarity.device)
        is_positive = (rows, rows + first)
        scores = self.negative * similarity
        scores[is_positive] = -torch.inf
        weights = scores.softmax(dim=-1) * (similarity.shape[1] - 1)
        hardness = torch.sigmoid(-self.positive * (positives - self.threshold))
        weights[is_positive] = (hardness / hardness.mean())[rows + first]
        return weights
