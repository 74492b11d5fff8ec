"""Feature mimicking: the student's embeddings follow the teacher's."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.losses.precision import at_least_float32

FeatureKind: TypeAlias = Literal["mse", "cosine"]


def feature_loss(student: Tensor, teacher: Tensor, *, kind: FeatureKind = "mse") -> Tensor:
    """Return the distance of ``[B, D]`` student features from the teacher's of the same pairs.

    ``mse``: mean of squared differences over all B * D values. ``cosine``: mean of 1 - cosine.
    Float32 even under autocast; the teacher gets no gradient.
    """
    with torch.autocast(student.device.type, enabled=False):
        student_features, teacher_features = (
            at_least_float32(student),
            at_least_float32(teacher.detach()),
        )
        if kind == "mse":
            return (student_features - teacher_features).square().mean()
        return (1 - F.cosine_similarity(student_features, teacher_features, dim=-1)).mean()


class FeatureProjector(nn.Module):
    """Projects a student's features to the teacher's width, with one matrix per tower.

    Trained with the student, but not saved with it.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.widths = (student, teacher)
        self.image = nn.Linear(student, teacher, bias=False)
        self.text = nn.Linear(student, teacher, bias=False)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return both towers' features at the teacher's width."""
        with torch.autocast(image.device.type, enabled=False):
            return self.image(image.float()), self.text(text.float())
