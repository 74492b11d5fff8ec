"""Student, frozen teacher and objective joined, so that the loop knows none of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tinyclip_edge.config import LossConfig, OptimConfig
from tinyclip_edge.data import Batch, PixelCodec
from tinyclip_edge.data.augment import apply_draws
from tinyclip_edge.losses import (
    FeatureProjector,
    affinity_loss,
    contrastive_loss,
    feature_loss,
    gather_with_grad,
)
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.optimizer import trainable
from tinyclip_edge.train.tasks.encoders import PairEncoder, Tokenizer, TokenMemory, tokenize
from tinyclip_edge.train.tasks.grad_cache import GradCache
from tinyclip_edge.train.tasks.teacher import Teacher

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True, slots=True)
class Terms:
    """One step's loss and its parts by name, all scalars; ``logged`` is not in the gradient."""

    loss: Tensor
    parts: dict[str, Tensor]  # unweighted loss terms
    logged: dict[str, Tensor] = field(default_factory=dict)
    after_backward: Callable[[], None] | None = None  # brings the gradient on to the parameters

    def values(self) -> dict[str, float]:
        """Return every scalar as a number."""
        named = {"loss": self.loss, **self.parts, **self.logged}
        together = torch.stack([value.detach().double() for value in named.values()])
        return dict(zip(named, together.tolist(), strict=True))  # the device is waited for once


class DistillTask:
    """The student learns the teacher's affinities; optionally labels and embeddings as well.

    ``before`` is the task of an earlier stage: a learnt scale and the projector go on from it.
    """

    def __init__(
        self,
        student: LoadedClip,
        teacher: Teacher,
        codec: PixelCodec,
        loss: LossConfig,
        *,
        device: torch.device,
        before: DistillTask | None = None,
    ) -> None:
        self.clip = student
        self.encoder = self.make_encoder(student).to(device)
        self.forward: nn.Module = self.encoder  # replaced by its wrapped form, see wrap()
        self.micro_batch: int | None = None  # pairs whose activations are held at once; None: all
        self.teacher = teacher
        self.beside = nn.ModuleDict()  # trained along, kept in checkpoints, not in the student
        self._tokenizer: Tokenizer = TokenMemory(student.tokenizer)
        self._codec = codec
        self._loss = loss
        self._device = device
        self._ranks = DistributedContext()
        self._teacher_scale = loss.teacher_logit_scale or teacher.scale
        self._set_scale(before)
        if loss.feature > 0:
            self._set_projector(before)

    def make_encoder(self, student: LoadedClip) -> PairEncoder:
        """Return the towers as this task runs them."""
        return PairEncoder(student)

    def wrap(self, module: nn.Module) -> None:
        """Run the student through ``module``, the form that accelerate made of its encoder."""
        self.forward = module

    def train(self) -> None:
        """Put the student, and only the student, into training mode."""
        self.forward.train()

    def clipped(self) -> list[nn.Parameter]:
        """Return the parameters whose gradient norm is told and limited."""
        projector = self.beside["projector"].parameters() if "projector" in self.beside else ()
        return trainable([*self.encoder.parameters(), *projector])

    def groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return optimizer groups of what is trained beside the student."""
        if "projector" not in self.beside:
            return []
        weights = list(self.beside["projector"].parameters())
        return [{"params": weights, "weight_decay": optim.weight_decay}]

    def encode(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return image and text features ``[B, D]`` with gradient, and the scale."""
        image, text, scale = self.forward(pixels, tokens)
        return image, text, scale

    def terms(self, batch: Batch) -> Terms:
        """Return the loss of a batch with its parts; of all processes' shares together."""
        batch = self._augmented(batch)
        # Shares in memory are equal; a stream leaves out what cannot be decoded.
        counts = None if batch.image_ids is not None else self._ranks.counts(len(batch.keys))
        image, text, scale, after_backward = self._answer(batch)
        image, text = gather_with_grad(image, counts), gather_with_grad(text, counts)
        loss, parts = self._loss, dict[str, Tensor]()
        logged: dict[str, Tensor] = {"student_scale": scale}
        if loss.affinity > 0 or loss.feature > 0:
            seen = self.teacher.answer(batch, counts)
        if loss.affinity > 0:
            affinity = affinity_loss(
                image,
                text,
                *seen,
                student_scale=scale,
                teacher_scale=self._teacher_scale,
                i2t=loss.affinity_i2t,
                t2i=loss.affinity_t2i,
            )
            parts["affinity"] = affinity.loss
            logged |= {"affinity_i2t": affinity.i2t, "affinity_t2i": affinity.t2i}
            logged |= {"kl": affinity.kl, "teacher_entropy": affinity.teacher_entropy}
        if loss.contrastive > 0:
            parts["contrastive"] = contrastive_loss(image, text, scale=scale)
        if loss.feature > 0:
            parts["feature"] = self._feature(image, text, *seen)
        total = image.new_zeros(())
        for name, part in parts.items():
            total = total + getattr(loss, name) * part
        return Terms(total, parts, logged, after_backward)

    def _augmented(self, batch: Batch) -> Batch:
        """Cut what the draws of a batch say, so that student and teacher see the same."""
        if batch.draws is None:
            return batch
        pixels = batch.pixels.to(self._device, non_blocking=True)
        return replace(batch, pixels=apply_draws(pixels, batch.draws))

    def _answer(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Callable[[], None] | None]:
        """Return the student's features and scale, and what has to follow the backward pass."""
        tokens = tokenize(self._tokenizer, batch.captions)

        def part(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
            pixels = batch.pixels[rows].to(self._device, non_blocking=True)
            pixels = self._codec.restore(pixels, self.clip.image_size)
            return self.encode(pixels, tokens[rows].to(self._device))

        rows, most = len(batch.keys), self.micro_batch
        if most is None or rows <= most:
            return (*part(slice(None)), None)
        passes = GradCache(part, self.forward, rows, -(-rows // most))
        return (*passes.first(), passes.second)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep a learnt scale between 1 and 100."""
        if self.encoder.log_scale.requires_grad:
            self.encoder.log_scale.clamp_(0.0, MAX_LOG_SCALE)

    def _feature(self, image: Tensor, text: Tensor, *seen: Tensor) -> Tensor:
        """Return the mean of both towers; projected after the gather, so alike on every process."""
        if "projector" in self.beside:
            image, text = self.beside["projector"](image, text)
        towers = zip((image, text), seen, strict=True)
        kind = self._loss.feature_kind
        return sum(feature_loss(a, b, kind=kind) for a, b in towers) / image.new_tensor(2.0)

    def _set_projector(self, before: DistillTask | None) -> None:
        widths = self.clip.embedding_dim, self.teacher.embedding_dim
        if widths[0] == widths[1]:
            return
        projector = FeatureProjector(*widths)
        old = None if before is None or "projector" not in before.beside else before.beside
        if old is not None and old["projector"].widths == widths:
            projector.load_state_dict(old["projector"].state_dict())
        self.beside["projector"] = projector.to(self._device)

    @torch.no_grad()
    def _set_scale(self, before: DistillTask | None) -> None:
        """Set the student's scale before the first step, so that no step runs with another one."""
        wanted = self._loss.student_logit_scale
        learned = wanted == "learned"
        scale = self._teacher_scale if isinstance(wanted, str) else wanted
        value = min(math.log(scale), MAX_LOG_SCALE) if learned else math.log(scale)
        if learned and before is not None:
            value = float(before.encoder.log_scale)
        self.encoder.log_scale.fill_(value)
        compared = self._loss.affinity > 0 or self._loss.contrastive > 0
        # What gets no gradient must not take any: several processes would wait for it.
        self.encoder.log_scale.requires_grad_(learned and compared)
        bias = getattr(self.clip.model, "logit_bias", None)  # of open_clip's sigmoid loss
        if isinstance(bias, nn.Parameter):
            bias.requires_grad_(False)
