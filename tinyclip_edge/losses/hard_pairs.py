"""Weights of pairs by how hard they are, after Multi-Similarity (arXiv 1904.06627)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class HardPairs:
    """General pair weighting with one positive pair per anchor and all others as negatives.

    Weights are proportional to exp(``negative`` * similarity) among an anchor's negatives, and to
    sigmoid(-``positive`` * (similarity - ``threshold``)) among a batch's positives. Their mean is 1
    in each group, which keeps the scale of the loss. Negatives have no threshold: it would cancel.
    """

    negative: float
    positive: float
    threshold: float

    @torch.no_grad()
    def weights(self, similarity: Tensor, positives: Tensor, first: int) -> Tensor:
        """Return the weights ``[R, B]`` for cosine ``similarity [R, B]`` of R anchors to B others.

        ``positives [B]`` are the similarities of all matching pairs; ``first`` is the row of the
        first anchor.
        """
        rows = torch.arange(len(similarity), device=similarity.device)
        is_positive = (rows, rows + first)
        scores = self.negative * similarity
        scores[is_positive] = -torch.inf
        weights = scores.softmax(dim=-1) * (similarity.shape[1] - 1)
        hardness = torch.sigmoid(-self.positive * (positives - self.threshold))
        weights[is_positive] = (hardness / hardness.mean())[rows + first]
        return weights
