"""Affinity mimicking: the student's similarities follow the teacher's (arXiv 2309.12314)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from tinyclip_edge.losses.fusion import Average, FusedTargets, SampleFusion, fused_targets
from tinyclip_edge.losses.hard_pairs import HardPairs
from tinyclip_edge.losses.objective import (
    EmbeddedBatch,
    LossTerm,
    PairEmbeddings,
    TeacherPart,
    TermValue,
)
from tinyclip_edge.losses.precision import at_least_float32
from tinyclip_edge.losses.sigmoid import Affine, sigmoid_affinity_loss
from tinyclip_edge.losses.similarity import pair_logits, part_logits

AffinityKind: TypeAlias = Literal["softmax", "sigmoid"]


class AffinityTerms(NamedTuple):
    """Scalars of one batch; ``loss`` carries the gradient, the others are detached."""

    loss: Tensor
    teacher_entropy: Tensor  # lower bound of the loss, with the same weights
    kl: Tensor  # loss - teacher_entropy: 0 for a perfect student
    i2t: Tensor  # cross entropy of each picture over the texts, unweighted
    t2i: Tensor  # cross entropy of each text over the pictures, unweighted
    first_weight: Tensor | None = None  # mean weight of the first teacher, if weighted per sample
    fusion_nll: Tensor | None = None  # of the pairs under the fused teachers, if a gate is trained


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
    student = PairEmbeddings(student_image, student_text)
    teacher = PairEmbeddings(teacher_image, teacher_text)
    return mixed_affinity_loss(
        student,
        teacher,
        student_scale=student_scale,
        teacher_scale=teacher_scale,
        directions=(i2t, t2i),
    )


def mixed_affinity_loss(
    student: PairEmbeddings,
    teacher: PairEmbeddings,
    *,
    student_scale: float | Tensor,
    teacher_scale: float | Tensor,
    directions: tuple[float, float] = (0.5, 0.5),
    parts: Sequence[TeacherPart] = (),
    fusion: SampleFusion | None = None,
    hard_pairs: HardPairs | None = None,
) -> AffinityTerms:
    """Return ``affinity_loss`` against several teachers combined, or with weighted pairs.

    ``directions`` are ``i2t`` and ``t2i``; ``parts`` are the teachers whose probabilities are
    averaged, or which ``fusion`` weights per sample. A gate's gradient is added without changing
    the value of the loss. With ``hard_pairs`` each pair's divergence p log(p/q) + q - p, which is
    never negative, is weighted separately.
    """
    i2t, t2i = directions
    with torch.autocast(student.image.device.type, enabled=False):
        logits = pair_logits(*student, student_scale)
        with torch.no_grad():
            targets = part_logits(*teacher, teacher_scale, parts)
            shares = [part.weight for part in parts] or [1.0]
            by_text = [target.T for target in targets]
            image_weights, text_weights = _weights(student, hard_pairs)
        if fusion is not None:
            image_fused = fused_targets(targets, shares, fusion, "image")
            text_fused = fused_targets(by_text, shares, fusion, "text")
            by_image_targets, by_text_targets = image_fused.log_probs, text_fused.log_probs
        else:
            with torch.no_grad():
                by_image_targets, by_text_targets = (
                    _log_probs(side, shares) for side in (targets, by_text)
                )
        image_term = _cross_entropy(logits, by_image_targets, image_weights)
        text_term = _cross_entropy(logits.T, by_text_targets, text_weights)
        loss, entropy, kl = (
            i2t * by_image + t2i * by_text
            for by_image, by_text in zip(image_term, text_term, strict=True)
        )
        terms = AffinityTerms(loss, entropy, kl, image_term[0].detach(), text_term[0].detach())
        return terms if fusion is None else _with_fusion(terms, image_fused, text_fused, directions)


@dataclass(frozen=True, slots=True)
class AffinityOptions:
    """Settings of the term ``affinity``, as a configuration names them."""

    kind: AffinityKind = "softmax"
    mean: Average = "logits"  # of the teachers of an ensemble
    i2t: float = 0.5
    t2i: float = 0.5
    hard_negative: float = 0.0
    hard_positive: float = 0.0
    hard_threshold: float = 0.5

    @property
    def hard_pairs(self) -> HardPairs | None:
        """The weighting of pairs; None if all have the same weight."""
        if not (self.hard_negative or self.hard_positive):
            return None
        return HardPairs(self.hard_negative, self.hard_positive, self.hard_threshold)

    def parts(self, batch: EmbeddedBatch) -> tuple[TeacherPart, ...]:
        """Return the teachers to combine one by one; empty if the mean of their logits is used."""
        fused = batch.fusion is not None
        return batch.teacher_parts if fused or self.mean == "probabilities" else ()

    def fusion(self, batch: EmbeddedBatch) -> SampleFusion | None:
        """Return how the teachers are weighted per sample; None if all samples are alike."""
        return None if batch.fusion is None else SampleFusion(batch.fusion, self.mean)


class AffinityTerm:
    """Affinity mimicking as a term of an objective."""

    modules: Mapping[str, nn.Module] = {}

    def __init__(self, options: AffinityOptions) -> None:
        self._options = options

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the loss; both directions, KL and the teacher's entropy are logged."""
        terms = mixed_affinity_loss(
            batch.student,
            batch.teacher,
            student_scale=batch.student_scale,
            teacher_scale=batch.teacher_scale,
            directions=(self._options.i2t, self._options.t2i),
            parts=self._options.parts(batch),
            fusion=self._options.fusion(batch),
            hard_pairs=self._options.hard_pairs,
        )
        logged = {
            "affinity_i2t": terms.i2t,
            "affinity_t2i": terms.t2i,
            "kl": terms.kl,
            "teacher_entropy": terms.teacher_entropy,
        }
        further = {"first_teacher": terms.first_weight, "fusion_nll": terms.fusion_nll}
        logged |= {name: value for name, value in further.items() if value is not None}
        return TermValue(terms.loss, logged)


class SigmoidAffinityTerm:
    """Affinity mimicking of pairwise probabilities as a term of an objective."""

    modules: Mapping[str, nn.Module] = {}

    def __init__(self, options: AffinityOptions) -> None:
        self._options = options

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the loss; KL and the teacher's entropy are logged."""
        assert batch.student_bias is not None
        assert batch.teacher_bias is not None
        terms = sigmoid_affinity_loss(
            batch.student,
            batch.teacher,
            student_logits=Affine(batch.student_scale, batch.student_bias),
            teacher_logits=Affine(batch.teacher_scale, batch.teacher_bias),
            parts=self._options.parts(batch),
            fusion=self._options.fusion(batch),
            hard_pairs=self._options.hard_pairs,
            rows=batch.rows,
        )
        return TermValue(terms.loss, {"kl": terms.kl, "teacher_entropy": terms.teacher_entropy})


def affinity_term(
    student_width: int,
    teacher_width: int,
    **settings: Any,  # noqa: ANN401 - of AffinityOptions
) -> LossTerm:
    """Return the term that the settings describe."""
    options = AffinityOptions(**settings)
    return SigmoidAffinityTerm(options) if options.kind == "sigmoid" else AffinityTerm(options)


def _with_fusion(
    terms: AffinityTerms,
    image: FusedTargets,
    text: FusedTargets,
    directions: tuple[float, float],
) -> AffinityTerms:
    """Add the fusion's figures and a gate's gradient, which does not change the loss value."""
    terms = terms._replace(first_weight=(image.first_weight + text.first_weight) / 2)
    if image.nll is None or text.nll is None:
        return terms
    nll = directions[0] * image.nll + directions[1] * text.nll
    return terms._replace(loss=terms.loss + (nll - nll.detach()), fusion_nll=nll.detach())


def _log_probs(logits: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the logarithm of the mean of the teachers' probabilities, by row."""
    log_probs = [each.log_softmax(dim=-1) for each in logits]
    if len(log_probs) == 1:
        return log_probs[0]
    weighted = [math.log(share) + each for share, each in zip(shares, log_probs, strict=True)]
    return torch.stack(weighted).logsumexp(dim=0)


def _weights(
    student: PairEmbeddings, hard_pairs: HardPairs | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the weights of pairs with pictures as anchors (rows), and with texts as anchors."""
    if hard_pairs is None:
        return None, None
    similarity = at_least_float32(student.image) @ at_least_float32(student.text).T
    positives = similarity.diagonal().clone()
    return (
        hard_pairs.weights(similarity, positives, 0),
        hard_pairs.weights(similarity.T, positives, 0),
    )


def _cross_entropy(
    logits: Tensor, target_log_probs: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over rows of cross entropy, target entropy and their difference (KL)."""
    log_probs = logits.log_softmax(dim=-1)
    with torch.no_grad():
        target_probs = target_log_probs.exp()
    if weights is not None:
        return _weighted_cross_entropy(log_probs, target_log_probs, target_probs * weights, weights)
    with torch.no_grad():
        entropy = -(target_probs * target_log_probs).sum(dim=-1).mean()
        kl = (target_probs * (target_log_probs - log_probs)).sum(dim=-1).mean()
    return -(target_probs * log_probs).sum(dim=-1).mean(), entropy, kl


def _weighted_cross_entropy(
    log_probs: Tensor, target_log_probs: Tensor, weighted_targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    mass = (weights * log_probs.exp() - weighted_targets).sum(dim=-1)  # 0 where weights are equal
    loss = (mass - (weighted_targets * log_probs).sum(dim=-1)).mean()
    entropy = -(weighted_targets * target_log_probs).sum(dim=-1).mean()
    return loss, entropy, (loss - entropy).detach()
