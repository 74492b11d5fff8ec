"""Learn a mapping that makes a student's weights from its teacher's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tinyclip_edge.config import InheritConfig, OptimConfig
from tinyclip_edge.data import Batch
from tinyclip_edge.inheritance.mapping import WeightMapping
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskContext, Terms

MAPPING_EPS = 1e-8  # a factor's gradient may be far below optim.eps


class MappedTask(DistillTask):
    """Distillation of a student whose inherited weights are those of a mapping.

    The student has these weights at every step, so that it is evaluated and saved as it is. Their
    gradient is that of an ordinary step, continued into the mapping's factors; what the student did
    not inherit is trained as usual.
    """

    def __init__(
        self,
        student: LoadedClip,
        context: TaskContext,
        mapping: WeightMapping,
        inherit: InheritConfig,
        *,
        before: DistillTask | None = None,
    ) -> None:
        super().__init__(student, context, before=before)
        self.mapping = mapping.to(self._device)
        self.beside["mapping"] = self.mapping
        self._lr = inherit.map_lr
        self._weights = {key: student.model.get_parameter(key) for key in mapping.keys}
        self._mapped: dict[str, Tensor] | None = None  # weights with their graph

    def groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return the groups of other parameters, and those of factors by the length of their rows.

        AdamW moves each value by about the learning rate, so a row, of norm 1 at the start, moves
        by the rate times the square root of its length.
        """
        lengths: dict[int, list[nn.Parameter]] = {}
        for factor in self.mapping.parameters():
            lengths.setdefault(factor.shape[-1], []).append(factor)
        fixed = {"weight_decay": 0.0, "constant_lr": True, "eps": MAPPING_EPS}
        return [
            *super().groups(optim),
            *(
                {"params": factors, "lr": self._lr / math.sqrt(length), **fixed}
                for length, factors in lengths.items()
            ),
        ]

    def clipped(self) -> list[nn.Parameter]:
        """Return the parameters whose gradient norm is logged and clipped, with the factors."""
        return [*super().clipped(), *self.mapping.parameters()]

    def terms(self, batch: Batch) -> Terms:
        """Return the loss of a batch with its parts."""
        if self._mapped is None:
            self._mapped = self.mapping()
        terms = super().terms(batch)
        return replace(terms, after_backward=partial(self._to_factors, terms.after_backward))

    def after_step(self) -> None:
        """Give the student the weights of the new factors."""
        super().after_step()
        self._mapped = self.mapping()
        with torch.no_grad():
            for key, weight in self._mapped.items():
                self._weights[key].copy_(weight)

    def _to_factors(self, before: Callable[[], None] | None) -> None:
        """Propagate the gradient of the student's weights to the factors, then clear it."""
        if before is not None:
            before()
        assert self._mapped is not None
        # Norms outside the layers are selected, not made by factors, and do not change.
        reached = [
            key
            for key, weight in self._mapped.items()
            if weight.requires_grad and self._weights[key].grad is not None
        ]
        torch.autograd.backward(
            [self._mapped[key] for key in reached], [self._weights[key].grad for key in reached]
        )
        # AdamW leaves weights without a gradient unchanged.
        nn.ParameterList(self._weights.values()).zero_grad(set_to_none=True)
        self._mapped = None
