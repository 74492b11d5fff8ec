"""Student, frozen teacher and objective joined, so that the loop knows none of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from tinyclip_edge.config import LossConfig
from tinyclip_edge.data import Batch, PixelCodec, TeacherFeatures
from tinyclip_edge.losses import affinity_loss, contrastive_loss, gather_with_grad
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.encode import PairEncoder, Tokenizer, tokenize

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True, slots=True)
class Terms:
    """One step's loss and its parts by name, all scalars; ``logged`` is not in the gradient."""

    loss: Tensor
    parts: dict[str, Tensor]  # unweighted loss terms
    logged: dict[str, Tensor] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Return every scalar as a number."""
        named = {"loss": self.loss, **self.parts, **self.logged}
        return {name: float(value.detach()) for name, value in named.items()}


class Teacher:
    """A CLIP that only answers: eval mode, no gradients; with a cache its features are kept."""

    def __init__(
        self,
        clip: LoadedClip,
        codec: PixelCodec,
        *,
        device: torch.device,
        features: TeacherFeatures | None = None,
    ) -> None:
        self.encoder = PairEncoder(clip).to(device).eval().requires_grad_(False)
        self.features = features
        self.scale = clip.logit_scale
        self._tokenizer = clip.tokenizer
        self._codec = codec
        self._device = device

    @torch.no_grad()
    def answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return image and text features ``[B, D]`` of a batch."""
        if self.features is None or batch.image_ids is None or batch.caption_ids is None:
            everything = np.arange(len(batch.keys))
            return self._images(batch, everything), self._texts(batch, everything)
        image = self.features.image.get(batch.image_ids, lambda at: self._images(batch, at))
        text = self.features.text.get(batch.caption_ids, lambda at: self._texts(batch, at))
        return image.to(self._device), text.to(self._device)

    def _images(self, batch: Batch, at: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
        pixels = batch.pixels[torch.from_numpy(at)].to(self._device)
        return self.encoder.encode_image(self._codec.restore(pixels))

    def _texts(self, batch: Batch, at: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
        tokens = tokenize(self._tokenizer, [batch.captions[i] for i in at])
        return self.encoder.encode_text(tokens.to(self._device))


class DistillTask:
    """The student learns the teacher's affinities; optionally the contrastive loss as well."""

    def __init__(
        self,
        student: LoadedClip,
        teacher: Teacher,
        codec: PixelCodec,
        loss: LossConfig,
        *,
        device: torch.device,
    ) -> None:
        self.clip = student
        self.encoder = PairEncoder(student).to(device)
        self.forward: nn.Module = self.encoder  # replaced by its wrapped form, see wrap()
        self.teacher = teacher
        self._tokenizer: Tokenizer = student.tokenizer
        self._codec = codec
        self._loss = loss
        self._device = device
        self._teacher_scale = loss.teacher_logit_scale or teacher.scale
        self._set_scale()

    def wrap(self, module: nn.Module) -> None:
        """Run the student through ``module``, the form that accelerate made of its encoder."""
        self.forward = module

    def train(self) -> None:
        """Put the student, and only the student, into training mode."""
        self.forward.train()

    def terms(self, batch: Batch) -> Terms:
        """Return the loss of a batch with its parts."""
        pixels = self._codec.restore(batch.pixels.to(self._device), self.clip.image_size)
        tokens = tokenize(self._tokenizer, batch.captions).to(self._device)
        image, text, scale = self.forward(pixels, tokens)
        image, text = gather_with_grad(image), gather_with_grad(text)
        parts: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {"student_scale": scale}
        total = image.new_zeros(())
        if self._loss.affinity > 0:
            seen = [gather_with_grad(part) for part in self.teacher.answer(batch)]
            affinity = affinity_loss(
                image,
                text,
                *seen,
                student_scale=scale,
                teacher_scale=self._teacher_scale,
            )
            parts["affinity"] = affinity.loss
            logged |= {"kl": affinity.kl, "teacher_entropy": affinity.teacher_entropy}
            total = total + self._loss.affinity * affinity.loss
        if self._loss.contrastive > 0:
            parts["contrastive"] = contrastive_loss(image, text, scale=scale)
            total = total + self._loss.contrastive * parts["contrastive"]
        return Terms(total, parts, logged)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep a learnt scale between 1 and 100."""
        if self.encoder.log_scale.requires_grad:
            self.encoder.log_scale.clamp_(0.0, MAX_LOG_SCALE)

    @torch.no_grad()
    def _set_scale(self) -> None:
        """Set the student's scale before the first step, so that no step runs with another one."""
        wanted = self._loss.student_logit_scale
        learned = wanted == "learned"
        scale = self._teacher_scale if isinstance(wanted, str) else wanted
        value = min(math.log(scale), MAX_LOG_SCALE) if learned else math.log(scale)
        self.encoder.log_scale.fill_(value)
        self.encoder.log_scale.requires_grad_(learned)
