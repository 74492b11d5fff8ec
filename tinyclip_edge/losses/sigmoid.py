"""SigLIP's objective: each pair is an independent yes-or-no decision (arXiv 2303.15343).

Each process computes the rows of its own pairs against all others, in chunks, so that the matrix of
all pairs is never in memory. B pairs in the global batch, R anchors in a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinyclip_edge.losses.fusion import SampleFusion, fused_probabilities
from tinyclip_edge.losses.gather import sum_with_grad
from tinyclip_edge.losses.hard_pairs import HardPairs
from tinyclip_edge.losses.objective import (
    EmbeddedBatch,
    PairEmbeddings,
    TeacherPart,
    TermValue,
)
from tinyclip_edge.losses.precision import at_least_float32
from tinyclip_edge.losses.similarity import pair_logits, part_logits

CHUNK_PAIRS = 1 << 22  # pairs whose logits are in memory at once
# Rows of anchors -> probabilities [R, B] of yes and of no.
Targets: TypeAlias = Callable[[slice], tuple[Tensor, Tensor]]


class Affine(NamedTuple):
    """Scale and bias that turn a cosine similarity into a logit."""

    scale: float | Tensor
    bias: float | Tensor


class SigmoidTerms(NamedTuple):
    """Scalars of one batch; ``loss`` carries the gradient, the others are detached."""

    loss: Tensor
    teacher_entropy: Tensor  # lower bound of the loss
    kl: Tensor  # loss - teacher_entropy: 0 for a perfect student


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    *,
    scale: float | Tensor,
    bias: float | Tensor,
    rows: slice = slice(None),
    chunk_pairs: int = CHUNK_PAIRS,
) -> Tensor:
    """Return the sum of the cross entropies of all B * B pairs, divided by B.

    Row i of ``image`` matches row i of ``text``. Features are ``[B, D]``, unit norm, of the global
    batch; ``rows`` are those of this process. Float32 even under autocast.
    """

    def labels(anchors: slice) -> tuple[Tensor, Tensor]:
        at = torch.arange(len(text), device=image.device)
        yes = at[anchors][:, None].eq(at).to(at_least_float32(image).dtype)
        return yes, 1 - yes

    anchors = _Anchors(image, text, rows, Affine(scale, bias), chunk_pairs)
    return anchors.mean(labels)[0]


def sigmoid_affinity_loss(  # noqa: PLR0913 - a public call, whose options have names
    student: PairEmbeddings,
    teacher: PairEmbeddings,
    *,
    student_logits: Affine,
    teacher_logits: Affine,
    parts: Sequence[TeacherPart] = (),
    fusion: SampleFusion | None = None,
    hard_pairs: HardPairs | None = None,
    rows: slice = slice(None),
    chunk_pairs: int = CHUNK_PAIRS,
) -> SigmoidTerms:
    """Return the sum of all B * B pairs' cross entropies against the teacher, divided by B.

    Features are ``[B, D]``, unit norm, of the global batch; ``rows`` are those of this process.
    Student and teacher may differ in D. ``parts`` are teachers whose probabilities are averaged, or
    which ``fusion`` weights per anchor. With ``hard_pairs`` one half of the loss has weights with
    pictures as anchors, the other with texts as anchors. Float32 even under autocast; the teacher
    gets no gradient.
    """

    def targets_of(anchors: Tensor, others: Tensor) -> Targets:
        return lambda at: _probabilities(
            part_logits(anchors[at], others, teacher_logits.scale, parts),
            parts,
            teacher_logits.bias,
            fusion,
        )

    by_image = _Anchors(*student, rows, student_logits, chunk_pairs, hard_pairs)
    loss, entropy = by_image.mean(targets_of(*teacher))
    if hard_pairs is not None:
        by_text = by_image._replace(anchors=student.text, others=student.image)
        text_loss, text_entropy = by_text.mean(targets_of(teacher.text, teacher.image))
        loss, entropy = (loss + text_loss) / 2, (entropy + text_entropy) / 2
    return SigmoidTerms(loss, entropy, (loss - entropy).detach())


class SigmoidTerm:
    """SigLIP's objective as a term of an objective."""

    modules: Mapping[str, nn.Module] = {}

    def __init__(self, student_width: int, teacher_width: int) -> None:
        pass

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the loss of the student's embeddings alone."""
        assert batch.student_bias is not None
        loss = sigmoid_loss(
            *batch.student, scale=batch.student_scale, bias=batch.student_bias, rows=batch.rows
        )
        return TermValue(loss)


class _Anchors(NamedTuple):
    """Rows of one tower against all rows of the other one."""

    anchors: Tensor
    others: Tensor
    rows: slice
    affine: Affine
    chunk_pairs: int
    hard_pairs: HardPairs | None = None

    def mean(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return cross entropy and (detached) target entropy, summed over processes, over B."""
        count = len(self.others)
        start, stop, _ = self.rows.indices(count)
        size = max(1, self.chunk_pairs // count)
        with torch.autocast(self.anchors.device.type, enabled=False):
            zero = at_least_float32(self.anchors[:0]).sum()
            total = torch.stack([zero, zero.detach()])
            for first in range(start, stop, size):
                at = slice(first, min(first + size, stop))
                # A chunk is recomputed in the backward pass, so that its logits are not stored.
                total = total + checkpoint(
                    self._chunk, targets, at, use_reentrant=False, preserve_rng_state=False
                )
            loss, entropy = sum_with_grad(total).unbind()
            return loss / count, entropy.detach() / count

    def _chunk(self, targets: Targets, at: slice) -> Tensor:
        """Return the sums over the pairs of a chunk of anchors, ``[2]``."""
        anchors = self.anchors[at]
        scale, bias = self.affine
        if isinstance(bias, Tensor):
            bias = at_least_float32(bias)
        logits = pair_logits(anchors, self.others, scale) + bias
        with torch.no_grad():
            yes, no = targets(at)
            if self.hard_pairs is None:
                weights: float | Tensor = 1.0
            else:
                weights = self._weights(self.hard_pairs, at)
            entropy = (weights * (torch.special.entr(yes) + torch.special.entr(no))).sum()
        log_probs = yes * F.logsigmoid(logits) + no * F.logsigmoid(-logits)
        loss = -(weights * log_probs).sum()
        return torch.stack([loss, entropy])

    def _weights(self, hard_pairs: HardPairs, at: slice) -> Tensor:
        anchors, others = at_least_float32(self.anchors), at_least_float32(self.others)
        positives = (anchors * others).sum(dim=-1)
        return hard_pairs.weights(anchors[at] @ others.T, positives, at.start)


def _probabilities(
    logits: Sequence[Tensor],
    parts: Sequence[TeacherPart],
    bias: float | Tensor,
    fusion: SampleFusion | None,
) -> tuple[Tensor, Tensor]:
    """Return the teachers' probabilities of yes and of no: their mean, or fused by sample."""
    biases = [bias if part.bias is None else part.bias for part in parts] or [bias]
    shares = [part.weight for part in parts] or [1.0]
    each = [logit + own for logit, own in zip(logits, biases, strict=True)]
    if fusion is not None:
        return fused_probabilities(each, shares, fusion)
    pairs = list(zip(shares, each, strict=True))
    yes = torch.stack([share * logit.sigmoid() for share, logit in pairs]).sum(dim=0)
    no = torch.stack([share * (-logit).sigmoid() for share, logit in pairs]).sum(dim=0)
    return yes, no
