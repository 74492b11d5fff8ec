"""Student, frozen teacher and objective as one task, so that the loop is independent of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tinyclip_edge.config import LossConfig, OptimConfig
from tinyclip_edge.data import Batch, PixelCodec
from tinyclip_edge.data.augment import apply_draws
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.losses import (
    FUSIONS,
    EmbeddedBatch,
    PairEmbeddings,
    TeacherPart,
    gather_with_grad,
    inherit_modules,
)
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.optimizer import trainable
from tinyclip_edge.train.tasks.encoders import (
    EncodedPairs,
    PairEncoder,
    Tokenizer,
    TokenMemory,
    tokenize,
)
from tinyclip_edge.train.tasks.grad_cache import GradCache
from tinyclip_edge.train.tasks.objective import make_objective
from tinyclip_edge.train.tasks.teacher import Teacher

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True, slots=True)
class Terms:
    """The loss of one step and its parts by name, all scalars; ``logged`` has no gradient."""

    loss: Tensor
    parts: dict[str, Tensor]  # unweighted loss terms
    logged: dict[str, Tensor] = field(default_factory=dict)
    after_backward: Callable[[], None] | None = None  # propagates the gradient to the parameters

    def values(self) -> dict[str, float]:
        """Return every scalar as a number."""
        named = {"loss": self.loss, **self.parts, **self.logged}
        scalars = torch.stack([value.detach().double() for value in named.values()])
        return dict(zip(named, scalars.tolist(), strict=True))  # one synchronisation


def _unwrapped(encoder: PairEncoder) -> nn.Module:
    return encoder


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What the tasks of all stages of a run share.

    ``prepare`` wraps the encoder for the device and the processes of a run, such as
    ``accelerator.prepare``.
    """

    teacher: Teacher
    codec: PixelCodec
    loss: LossConfig
    device: torch.device
    micro_batch: int | None = None  # pairs whose activations are in memory at once, at most
    prepare: Callable[[PairEncoder], nn.Module] = _unwrapped


class TaskMaker(Protocol):
    """Builds the task of a stage; a task class can be used as one."""

    def __call__(
        self, student: LoadedClip, context: TaskContext, *, before: DistillTask | None = None
    ) -> DistillTask:
        """Return the task."""


class DistillTask:
    """The student learns to match the teacher, with the loss terms of the configuration.

    ``before`` is the task of an earlier stage, from which a learnt scale and trained modules are
    carried over.
    """

    def __init__(
        self, student: LoadedClip, context: TaskContext, *, before: DistillTask | None = None
    ) -> None:
        teacher, loss, device = context.teacher, context.loss, context.device
        self.clip = student
        self.encoder = self.make_encoder(student).to(device)
        self.micro_batch = context.micro_batch
        self.teacher = teacher
        self.beside = nn.ModuleDict()  # trained too, not part of the student
        self._tokenizer: Tokenizer = TokenMemory(student.tokenizer)
        self._codec = context.codec
        self._loss = loss
        self._device = device
        self._distributed = DistributedContext()
        self._teacher_scale = loss.teacher_logit_scale or teacher.scale
        # SigLIP's factors are above CLIP's limit.
        sigmoid = math.log(self._teacher_scale) if teacher.bias is not None else 0.0
        self._max_log_scale = max(MAX_LOG_SCALE, sigmoid)
        self._teacher_bias, self._teacher_parts = self._teacher_biases()
        self._check_bias()
        self._set_scale(before)
        self._set_bias(before)
        self.fusion = FUSIONS[teacher.fusion](len(teacher.parts))
        self.objective = make_objective(loss, student.embedding_dim, teacher.embedding_dim)
        if before is not None:
            inherit_modules(self.trained_modules, before.trained_modules)
        for name, module in self.trained_modules.items():
            self.beside[name] = module.to(device)
        self.forward = context.prepare(self.encoder)

    @property
    def trained_modules(self) -> dict[str, nn.Module]:
        """Modules of the loss terms and of the fusion of teachers, trained with the student."""
        return {**self.objective.modules, **({} if self.fusion is None else self.fusion.modules)}

    def make_encoder(self, student: LoadedClip) -> PairEncoder:
        """Return the towers as this task runs them."""
        return PairEncoder(student)

    def first_scale(self) -> float:
        """Return the initial factor on similarities if it is learnt."""
        return self._teacher_scale

    def first_bias(self) -> float | None:
        """Return the student's initial sigmoid bias; None: the student keeps its own."""
        return self._teacher_bias

    def train(self) -> None:
        """Put only the student into training mode."""
        self.forward.train()

    def clipped(self) -> list[nn.Parameter]:
        """Return the parameters whose gradient norm is logged and clipped."""
        modules = self.trained_modules.values()
        weights = [weight for module in modules for weight in module.parameters()]
        return trainable([*self.encoder.parameters(), *weights])

    def groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return optimizer groups of other trained parameters."""
        modules = self.trained_modules.values()
        return [
            {"params": list(module.parameters()), "weight_decay": optim.weight_decay}
            for module in modules
        ]

    def encode(self, pixels: Tensor, tokens: Tensor) -> EncodedPairs:
        """Return image and text features ``[B, D]``, scale and bias, with gradient."""
        return EncodedPairs(*self.forward(pixels, tokens))

    def terms(self, batch: Batch) -> Terms:
        """Return the loss of a batch, over the parts of all processes, and its terms."""
        batch = self._augmented(batch)
        # Processes have equally many pairs in memory, but streams skip undecodable images.
        counts = None if batch.image_ids is not None else self._distributed.counts(len(batch.keys))
        pairs, after_backward = self._embed(batch)
        image, text = gather_with_grad(pairs.image, counts), pairs.text
        if batch.captions:
            text = gather_with_grad(text, counts)
        embedded = EmbeddedBatch(
            PairEmbeddings(image, text),
            student_scale=pairs.scale,
            student_bias=pairs.bias if self._loss.uses_bias else None,
            teacher_scale=self._teacher_scale,
            teacher_bias=self._teacher_bias,
            teacher_parts=self._teacher_parts,
            fusion=self.fusion,
            teacher=lambda: PairEmbeddings(*self.teacher.features_of(batch, counts)),
            rows=self._distributed.own_rows(len(image), counts),
        )
        return Terms(*self.objective(embedded), after_backward)

    def _augmented(self, batch: Batch) -> Batch:
        """Apply the random crops of a batch, the same for student and teacher."""
        if batch.draws is None:
            return batch
        pixels = batch.pixels.to(self._device, non_blocking=True)
        return replace(batch, pixels=apply_draws(pixels, batch.draws))

    def _embed(self, batch: Batch) -> tuple[EncodedPairs, Callable[[], None] | None]:
        """Return the student's features, and what to call after the backward pass."""
        tokens = tokenize(self._tokenizer, batch.captions)

        def embed_rows(rows: slice) -> EncodedPairs:
            pixels = batch.pixels[rows].to(self._device, non_blocking=True)
            pixels = self._codec.restore(pixels, self.clip.image_size)
            return self.encode(pixels, tokens[rows].to(self._device))

        rows, limit = len(batch.keys), self.micro_batch
        if limit is None or rows <= limit:
            return embed_rows(slice(None)), None
        passes = GradCache(embed_rows, self.forward, rows, -(-rows // limit))
        return passes.first(), passes.second

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp a learnt scale to 1 to 100, or up to the teacher's scale for a sigmoid."""
        if self.encoder.log_scale.requires_grad:
            self.encoder.log_scale.clamp_(0.0, self._max_log_scale)

    @torch.no_grad()
    def _set_scale(self, before: DistillTask | None) -> None:
        """Set the student's scale before the first step.

        A learnt scale continues from that of ``before``, otherwise it starts at ``first_scale``.
        """
        setting = self._loss.student_logit_scale
        is_learned = setting == "learned"
        if is_learned and before is not None:
            value = float(before.encoder.log_scale)
        elif is_learned:
            value = min(math.log(self.first_scale()), self._max_log_scale)
        else:
            value = math.log(self._teacher_scale if isinstance(setting, str) else setting)
        self.encoder.log_scale.fill_(value)
        uses_scale = any(entry.uses_scale for entry in self._loss.active.values())
        # An unused parameter must not require a gradient: other processes would wait for it.
        self.encoder.log_scale.requires_grad_(is_learned and uses_scale)

    def _teacher_biases(self) -> tuple[float | None, tuple[TeacherPart, ...]]:
        """Return the teacher's bias, and the parts of an ensemble with theirs.

        They are rescaled with the scale of the loss, so that a pair to which a teacher gives a
        probability of one half keeps it.
        """
        fixed, bias, parts = self._loss.teacher_logit_bias, self.teacher.bias, self.teacher.parts
        if fixed is not None:
            return fixed, tuple(part._replace(bias=fixed) for part in parts)
        if bias is None:
            return None, parts
        ratio = self._teacher_scale / self.teacher.scale
        return bias * ratio, tuple(
            part._replace(bias=None if part.bias is None else part.bias * ratio) for part in parts
        )

    def _check_bias(self) -> None:
        """Raise ConfigError if a sigmoid has no bias."""
        loss, has_none = self._loss, self._teacher_bias is None
        if loss.affinity_is_sigmoid and has_none:
            raise ConfigError(
                f"loss.affinity_kind sigmoid needs a bias, and teacher {self.teacher.name} has "
                "none; set loss.teacher_logit_bias (for example to -10), or use softmax"
            )
        if loss.uses_bias and has_none and loss.student_logit_bias == "teacher":
            raise ConfigError(
                f"loss.sigmoid needs a bias, and teacher {self.teacher.name} has none; set "
                "loss.student_logit_bias to learned, or to a number"
            )

    @torch.no_grad()
    def _set_bias(self, before: DistillTask | None) -> None:
        """Set the student's bias before the first step; one without a sigmoid loss is fixed."""
        bias, setting = self.encoder.logit_bias, self._loss.student_logit_bias
        if bias is None:
            return
        is_used = self._loss.uses_bias
        bias.requires_grad_(is_used and setting == "learned")
        earlier = None if before is None else before.encoder.logit_bias
        if is_used and not isinstance(setting, str):
            bias.fill_(setting)
        elif is_used and earlier is not None:
            bias.copy_(earlier)
        elif before is None and (first := self.first_bias()) is not None:
            bias.fill_(first)
