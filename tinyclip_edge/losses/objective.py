"""The objective of a run: a weighted sum of loss terms on the embeddings of one global batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from torch import Tensor, nn


class PairEmbeddings(NamedTuple):
    """Unit-norm features ``[B, D]`` of B pairs."""

    image: Tensor
    text: Tensor


class EmbeddedBatch:
    """What a loss term sees of a batch; the teacher runs when the first term reads ``teacher``."""

    def __init__(
        self,
        student: PairEmbeddings,
        *,
        student_scale: Tensor,
        teacher_scale: float,
        teacher: Callable[[], PairEmbeddings],
    ) -> None:
        self.student = student
        self.student_scale = student_scale
        self.teacher_scale = teacher_scale
        self._embed_teacher = teacher

    @cached_property
    def teacher(self) -> PairEmbeddings:
        """Embeddings of the teacher, which may have another width."""
        return self._embed_teacher()


@dataclass(frozen=True, slots=True)
class TermValue:
    """A term of one batch: a scalar with gradient, and further scalars to log by name."""

    loss: Tensor
    logged: Mapping[str, Tensor] = field(default_factory=dict)


class LossTerm(Protocol):
    """A term, constructed as ``Term(student_width, teacher_width, **settings)``."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What is trained beside the student, by its name in checkpoints."""

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the term, without its weight."""


class Objective:
    """Loss terms by name, each with its weight."""

    def __init__(self, terms: Mapping[str, tuple[float, LossTerm]]) -> None:
        self._terms = dict(terms)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What the terms train beside the student, by name."""
        return {
            name: module
            for _, term in self._terms.values()
            for name, module in term.modules.items()
        }

    def inherit(self, modules: Mapping[str, nn.Module]) -> None:
        """Start from modules of the same names and shapes, such as those of an earlier stage."""
        for name, module in self.modules.items():
            if name in modules and _shapes(modules[name]) == _shapes(module):
                module.load_state_dict(modules[name].state_dict())

    def __call__(self, batch: EmbeddedBatch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return the weighted sum, the terms without their weights, and figures to log."""
        total = batch.student.image.new_zeros(())
        parts: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {"student_scale": batch.student_scale}
        for name, (weight, term) in self._terms.items():
            value = term(batch)
            parts[name] = value.loss
            logged |= value.logged
            total = total + weight * value.loss
        return total, parts, logged


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
