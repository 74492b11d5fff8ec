"""Affinity mimicking: the student's similarities follow the teacher's (arXiv 2309.12314)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tinyclip_edge.losses.objective import EmbeddedBatch, TermValue
from tinyclip_edge.losses.precision import at_least_float32


class AffinityTerms(NamedTuple):
    """Scalars of one batch; ``loss`` carries the gradient, the others are detached."""

    loss: Tensor
    teacher_entropy: Tensor  # lower bound of the loss, with the same weights
    kl: Tensor  # loss - teacher_entropy: 0 for a perfect student
    i2t: Tensor  # cross entropy of each picture over the texts, unweighted
    t2i: Tensor  # cross entropy of each text over the pictures, unweighted


def affinity_loss(
    student_image: Tensor,
    student_text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    *,
    student_scale: float | Tensor,
    teacher_scale: float | Tensor,
    i2t: float = 0.5,
    t2i: float = 0.5,
) -> AffinityTerms:
    """Return the cross entropy of the student's row-wise affinities against the teacher's.

    Features are ``[B, D]``, unit norm, of the global batch (gather first); student and teacher may
    differ in D. ``i2t`` and ``t2i`` weight the two directions. Computed in float32 even under
    autocast (float64 features in float64); the teacher gets no gradient.
    """
    with torch.autocast(student_image.device.type, enabled=False):
        logits = _logits(student_image, student_text, student_scale)
        with torch.no_grad():
            targets = _logits(teacher_image, teacher_text, teacher_scale)
        by_image = _cross_entropy(logits, targets)
        by_text = _cross_entropy(logits.T, targets.T)
        loss, entropy, kl = (
            i2t * by_image_term + t2i * by_text_term
            for by_image_term, by_text_term in zip(by_image, by_text, strict=True)
        )
        return AffinityTerms(loss, entropy, kl, by_image[0].detach(), by_text[0].detach())


class AffinityTerm:
    """Affinity mimicking as a term of an objective."""

    modules: Mapping[str, nn.Module] = {}

    def __init__(self, student_width: int, teacher_width: int, *, i2t: float, t2i: float) -> None:
        self._i2t, self._t2i = i2t, t2i

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the loss; both directions, KL and the teacher's entropy are logged."""
        terms = affinity_loss(
            *batch.student,
            *batch.teacher,
            student_scale=batch.student_scale,
            teacher_scale=batch.teacher_scale,
            i2t=self._i2t,
            t2i=self._t2i,
        )
        logged = {
            "affinity_i2t": terms.i2t,
            "affinity_t2i": terms.t2i,
            "kl": terms.kl,
            "teacher_entropy": terms.teacher_entropy,
        }
        return TermValue(terms.loss, logged)


def _logits(image: Tensor, text: Tensor, scale: float | Tensor) -> Tensor:
    if isinstance(scale, Tensor):
        scale = at_least_float32(scale)
    return scale * (at_least_float32(image) @ at_least_float32(text).T)


def _cross_entropy(logits: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over rows of cross entropy, target entropy and their difference (KL)."""
    log_probs = logits.log_softmax(dim=-1)
    with torch.no_grad():
        target_log_probs = target_logits.log_softmax(dim=-1)
        target_probs = target_log_probs.exp()
        entropy = -(target_probs * target_log_probs).sum(dim=-1).mean()
        kl = (target_probs * (target_log_probs - log_probs)).sum(dim=-1).mean()
    return -(target_probs * log_probs).sum(dim=-1).mean(), entropy, kl
