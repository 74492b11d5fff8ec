"""The moving average of a student's weights, which is evaluated and saved in its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.tasks.encoders import PairEncoder


@dataclass(frozen=True, slots=True)
class AveragedStudent:
    """An exponential moving average of a student's weights over steps.

    After t steps the past has the weight ``min(decay, (1 + t) / (10 + t))``, so that the first
    steps are soon forgotten. Batch-norm statistics are those of the last step.
    """

    clip: LoadedClip
    encoder: PairEncoder
    average: AveragedModel  # its state goes into checkpoints

    @classmethod
    def of(cls, student: LoadedClip, decay: float) -> AveragedStudent:
        """Return the average that begins with the student's weights."""
        average = AveragedModel(student.model, multi_avg_fn=partial(_average, decay))
        average.n_averaged.fill_(1)  # counts the initial weights
        average.eval().requires_grad_(False)
        clip = replace(student, model=average.module)
        return cls(clip, PairEncoder(clip), average)

    def update(self, student: LoadedClip) -> None:
        """Add the weights after a step."""
        self.average.update_parameters(student.model)


def _average(
    decay: float, averaged: list[Tensor], current: list[Tensor], count: Tensor | int
) -> None:
    """Move ``averaged``, so far the average of ``count`` weights, towards ``current``."""
    number = int(count)
    average = get_ema_multi_avg_fn(  # type: ignore[no-untyped-call]
        min(decay, (1 + number) / (10 + number))
    )
    average(averaged, current, count)
