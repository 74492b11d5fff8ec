"""The objective of a run: a weighted sum of loss terms on the embeddings of one global batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.losses.fusion import Fusion


class PairEmbeddings(NamedTuple):
    """Unit-norm features ``[B, D]`` of B pairs, or of B pictures with B unpaired texts or none."""

    image: Tensor
    text: Tensor


class TeacherPart(NamedTuple):
    """One of several teachers; its features are columns of the concatenated ones."""

    columns: slice
    weight: float  # of its probabilities in the mean; the weights of all teachers sum to 1
    bias: float | None = None  # added to its logits before a sigmoid


class EmbeddedBatch:
    """The input of a loss term; the teacher runs when the first term reads ``teacher``.

    Biases are added to logits before a sigmoid. ``teacher_parts`` are the teachers of an ensemble,
    whose features are concatenated; ``fusion`` weights them per sample (None: constant weights).
    ``rows`` are those of this process, for terms that divide their work among processes.
    """

    def __init__(  # noqa: PLR0913 - one call, whose options have names
        self,
        student: PairEmbeddings,
        *,
        student_scale: Tensor,
        teacher_scale: float,
        teacher: Callable[[], PairEmbeddings],
        student_bias: Tensor | None = None,
        teacher_bias: float | None = None,
        teacher_parts: Sequence[TeacherPart] = (),
        fusion: Fusion | None = None,
        rows: slice = slice(None),
    ) -> None:
        self.student = student
        self.student_scale = student_scale
        self.student_bias = student_bias
        self.teacher_scale = teacher_scale
        self.teacher_bias = teacher_bias
        self.teacher_parts = tuple(teacher_parts)
        self.fusion = fusion
        self.rows = rows
        self._embed_teacher = teacher

    @cached_property
    def teacher(self) -> PairEmbeddings:
        """Embeddings of the teacher, which may have another width."""
        return self._embed_teacher()

    def prefix(self, length: int) -> EmbeddedBatch:
        """Return the batch with the first ``length`` dimensions of the student, normalised."""
        part = copy(self)
        part.student = PairEmbeddings(
            *(F.normalize(features[:, :length], dim=-1) for features in self.student)
        )
        part._embed_teacher = lambda: self.teacher
        return part


@dataclass(frozen=True, slots=True)
class TermValue:
    """A term of one batch: a scalar with gradient, and further scalars to log by name."""

    loss: Tensor
    logged: Mapping[str, Tensor] = field(default_factory=dict)


class LossTerm(Protocol):
    """A term, constructed as ``Term(student_width, teacher_width, **settings)``."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Modules trained with the student, by their names in checkpoints."""

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the term, without its weight."""


class Objective:
    """Loss terms by name, each with its weight."""

    def __init__(self, terms: Mapping[str, tuple[float, LossTerm]]) -> None:
        self._terms = dict(terms)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Modules of the terms that are trained with the student, by name."""
        return {
            name: module
            for _, term in self._terms.values()
            for name, module in term.modules.items()
        }

    def __call__(self, batch: EmbeddedBatch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return the weighted sum, the terms without their weights, and figures to log."""
        total = batch.student.image.new_zeros(())
        parts: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {"student_scale": batch.student_scale}
        if batch.student_bias is not None:
            logged["student_bias"] = batch.student_bias
        for name, (weight, term) in self._terms.items():
            value = term(batch)
            parts[name] = value.loss
            logged |= value.logged
            total = total + weight * value.loss
        return total, parts, logged


def inherit_modules(modules: Mapping[str, nn.Module], earlier: Mapping[str, nn.Module]) -> None:
    """Load the weights of earlier modules of equal name and shape, such as the previous stage's."""
    for name, module in modules.items():
        if name in earlier and _shapes(earlier[name]) == _shapes(module):
            module.load_state_dict(earlier[name].state_dict())


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
