"""Ways to weight several teachers per sample; add new ones to ``FUSIONS``.

T teachers, R anchors of one side (pictures or texts), C candidates of the other side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

Side: TypeAlias = Literal["image", "text"]  # of the anchors
Average: TypeAlias = Literal["logits", "probabilities"]


class Evidence(NamedTuple):
    """Confidence of each teacher about each anchor, ``[R, T]``."""

    entropy: Tensor  # nats
    peak: Tensor  # largest probability
    candidates: int


class Fusion(Protocol):
    """Weights of teachers for each sample."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Modules trained with the student, by their names in checkpoints."""

    def log_weights(self, evidence: Evidence, shares: Sequence[float], side: Side) -> Tensor:
        """Return the logarithms of weights, ``[R, T]``; the weights of a row sum to 1.

        ``shares`` are the teachers' weights in the mean.
        """


class SampleFusion(NamedTuple):
    """How teachers are weighted per sample, and whether logits or probabilities are averaged."""

    way: Fusion
    average: Average


class ConfidenceFusion:
    """Weights a teacher by its share over its perplexity, its effective number of candidates."""

    modules: Mapping[str, nn.Module] = {}

    def log_weights(self, evidence: Evidence, shares: Sequence[float], side: Side) -> Tensor:
        """Return the logarithms of weights, ``[R, T]``: the shares, if entropies are equal."""
        return (_log(shares, evidence.entropy) - evidence.entropy).log_softmax(dim=-1)


class FusionGate(nn.Module):
    """A linear layer per side on all teachers' entropies and peaks; initially the plain mean."""

    def __init__(self, teachers: int) -> None:
        super().__init__()
        shape = (teachers, 2 * teachers)
        # Zeros rather than nn.Linear, which would draw from the run's random numbers.
        self.image = nn.Parameter(torch.zeros(shape))
        self.text = nn.Parameter(torch.zeros(shape))
        self.image_bias = nn.Parameter(torch.zeros(teachers))
        self.text_bias = nn.Parameter(torch.zeros(teachers))

    def forward(self, evidence: Evidence, side: Side) -> Tensor:
        """Return scores ``[R, T]``, which are added to the logarithms of shares."""
        entropy = evidence.entropy / math.log(max(evidence.candidates, 2))
        known = torch.cat([entropy, evidence.peak], dim=-1).to(self.image.dtype)
        if side == "image":
            return nn.functional.linear(known, self.image, self.image_bias)
        return nn.functional.linear(known, self.text, self.text_bias)


class LearnedFusion:
    """Weights from a gate that is trained to make each pair's own candidate likely."""

    def __init__(self, teachers: int) -> None:
        self._gate = FusionGate(teachers)
        self.modules: Mapping[str, nn.Module] = {"fusion_gate": self._gate}

    def log_weights(self, evidence: Evidence, shares: Sequence[float], side: Side) -> Tensor:
        """Return the logarithms of weights, ``[R, T]``, with gradient."""
        scores: Tensor = self._gate(evidence, side)
        return (_log(shares, evidence.entropy) + scores).log_softmax(dim=-1)


# Name in teacher.fusion -> constructor, given the number of teachers; None: constant weights.
FUSIONS: dict[str, Callable[[int], Fusion | None]] = {
    "mean": lambda _: None,
    "confidence": lambda _: ConfidenceFusion(),
    "learned": LearnedFusion,
}


class FusedTargets(NamedTuple):
    """Targets ``[R, C]`` of one side, with the weights behind them."""

    log_probs: Tensor  # without gradient
    first_weight: Tensor  # mean weight of the first teacher
    nll: Tensor | None  # of the pairs, with the gradient of a gate; None without one


def fused_targets(
    logits: Sequence[Tensor],
    shares: Sequence[float],
    fusion: SampleFusion,
    side: Side,
) -> FusedTargets:
    """Fuse the teachers' logits ``[R, C]`` per sample; a gate needs pairs on the diagonal."""
    with torch.no_grad():
        log_probs = torch.stack([each.log_softmax(dim=-1) for each in logits], dim=-1)
        probs = log_probs.exp()
        entropy = torch.special.entr(probs).sum(dim=1)
        evidence = Evidence(entropy, probs.amax(dim=1), probs.shape[1])
    log_weights = fusion.way.log_weights(evidence, shares, side).to(log_probs.dtype)[:, None]
    if fusion.average == "probabilities":
        fused = (log_weights + log_probs).logsumexp(dim=-1)
    else:
        stacked = torch.stack(list(logits), dim=-1)
        fused = (log_weights.exp() * stacked).sum(dim=-1).log_softmax(dim=-1)
    nll = -fused.diagonal().mean() if fusion.way.modules else None
    return FusedTargets(fused.detach(), log_weights[..., 0].detach().exp().mean(), nll)


def fused_probabilities(
    logits: Sequence[Tensor], shares: Sequence[float], fusion: SampleFusion
) -> tuple[Tensor, Tensor]:
    """Fuse the teachers' sigmoid logits ``[R, C]``; return the probabilities of yes and of no."""
    stacked = torch.stack(list(logits), dim=-1)
    yes, no = stacked.sigmoid(), (-stacked).sigmoid()
    entropy = (torch.special.entr(yes) + torch.special.entr(no)).sum(dim=1)
    evidence = Evidence(entropy, yes.amax(dim=1), yes.shape[1])
    weights = fusion.way.log_weights(evidence, shares, "image").exp()[:, None]
    if fusion.average == "probabilities":
        return (weights * yes).sum(dim=-1), (weights * no).sum(dim=-1)
    fused = (weights * stacked).sum(dim=-1)
    return fused.sigmoid(), (-fused).sigmoid()


def _log(shares: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor([math.log(share) for share in shares], dtype=like.dtype, device=like.device)
