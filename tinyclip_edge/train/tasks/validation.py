"""Retrieval and zero-shot accuracy on the validation pairs during a run.

N pictures, C concepts; each concept has one label, the first caption of its first picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tinyclip_edge.data import PairMemory, PixelCodec
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.tasks.agreement import agreement, count_ahead, label_accuracy
from tinyclip_edge.train.tasks.encoders import PairEncoder, tokenize

BATCH = 256
CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class Validation:
    """Validation pairs, to evaluate any encoder that takes the student's tokens."""

    pairs: PairMemory
    codec: PixelCodec
    reference: Tensor | None = None  # the teacher's logits [N, M], of pictures without captions
    labels: Tensor | None = None  # [N] of these pictures, if folders name them
    templates: int = 1  # per label

    def measure(self, encoder: PairEncoder, clip: LoadedClip) -> dict[str, float]:
        """Return accuracies as shares, see ``accuracies``, and the sizes of the set.

        For pictures without captions, returns the result of ``compared``.
        """
        images, texts = self.features(encoder, clip)
        if self.reference is not None:
            return self.compared(float(encoder.log_scale.exp()) * (images @ texts.T).cpu())
        return {
            **self.accuracies(images, texts),
            "images": float(len(images)),
            "labels": float(len(texts)),
        }

    def compared(self, logits: Tensor) -> dict[str, float]:
        """Return the agreement of logits ``[N, M]`` with the teacher's, and sizes.

        If folders name the labels, also returns the accuracy ``i2t_r1``.
        """
        assert self.reference is not None
        values = agreement(logits, self.reference)
        if self.labels is not None:
            values["i2t_r1"] = label_accuracy(logits, self.labels, self.templates)
        images, texts = logits.shape
        return {**values, "images": float(images), "labels": float(texts)}

    def accuracies(self, images: Tensor, texts: Tensor) -> dict[str, float]:
        """Return the accuracies of features of this set as shares."""
        similarity = (images @ texts.T).cpu()
        return accuracies(similarity, torch.from_numpy(self.pairs.concept_of))

    @torch.no_grad()
    def features(self, encoder: PairEncoder, clip: LoadedClip) -> tuple[Tensor, Tensor]:
        """Return features of all pictures ``[N, D]`` and of all labels ``[C, D]``."""
        device = next(encoder.parameters()).device
        training = encoder.training
        encoder.eval()
        images = [
            encoder.encode_image(self.codec.restore(self._stack(start).to(device), clip.image_size))
            for start in range(0, len(self.pairs), BATCH)
        ]
        if self.pairs.texts is not None:
            labels = list(self.pairs.captions)
        else:
            labels = [self.pairs.label(concept) for concept in range(len(self.pairs.concepts))]
        texts = [
            encoder.encode_text(tokenize(clip.tokenizer, labels[start : start + BATCH]).to(device))
            for start in range(0, len(labels), BATCH)
        ]
        encoder.train(training)
        return torch.cat(images), torch.cat(texts)

    def _stack(self, start: int) -> Tensor:
        return torch.stack(self.pairs.images[start : start + BATCH])


def accuracies(similarity: Tensor, concept_of: Tensor) -> dict[str, float]:
    """Return recall at 1 and 5 and zero-shot accuracy from ``[N, C]`` similarities.

    ``i2t``: a picture's label among all labels (zero-shot top-1 and top-5). ``t2i``: a picture of
    the label's concept among all pictures. ``zero_shot_100``: expected top-1 among the true label
    and 99 random others (all others if C < 100). A tie counts as a miss, and so does NaN.
    """
    better = count_ahead(similarity, concept_of)
    mine = concept_of[:, None] == torch.arange(similarity.shape[1])
    best = similarity.masked_fill(~mine, -torch.inf).amax(dim=0)
    ahead = (~similarity.lt(best) & ~mine).sum(dim=0)
    return {
        "t2i_r1": ahead.lt(1).double().mean().item(),
        "t2i_r5": ahead.lt(5).double().mean().item(),
        "i2t_r1": better.lt(1).double().mean().item(),
        "i2t_r5": better.lt(5).double().mean().item(),
        "zero_shot_100": _among(better, similarity.shape[1]).mean().item(),
    }


def _among(better: Tensor, labels: int) -> Tensor:
    """Probability that none of ``better`` labels is among 99 others drawn without replacement."""
    others = labels - 1
    candidates = min(CANDIDATES - 1, others)
    chance = torch.ones(len(better), dtype=torch.float64)
    for number in range(candidates):
        chance *= ((others - better - number).double() / (others - number)).clamp_min(0.0)
    return chance
