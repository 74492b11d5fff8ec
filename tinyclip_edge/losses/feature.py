"""Feature mimicking: the student's embeddings follow the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.losses.objective import EmbeddedBatch, PairEmbeddings, TermValue
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
        self.image = nn.Linear(student, teacher, bias=False)
        self.text = nn.Linear(student, teacher, bias=False)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return both towers' features ``[B, D]`` at the teacher's width."""
        with torch.autocast(image.device.type, enabled=False):
            return self.image(image.float()), self.text(text.float())


class FeatureTerm:
    """Feature mimicking as a term of an objective: mean of both towers, or of pictures alone."""

    def __init__(self, student_width: int, teacher_width: int, *, kind: FeatureKind) -> None:
        self._kind: FeatureKind = kind
        self.modules: Mapping[str, nn.Module] = {}
        if student_width != teacher_width:
            self.modules = {"projector": FeatureProjector(student_width, teacher_width)}

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the loss; features are projected after the gather, equally on every process."""
        student, teacher = batch.student, batch.teacher
        if "projector" in self.modules:
            student = PairEmbeddings(*self.modules["projector"](*student))
        image = feature_loss(student.image, teacher.image, kind=self._kind)
        if not len(student.text):
            return TermValue(image)
        text = feature_loss(student.text, teacher.text, kind=self._kind)
        return TermValue((image + text) / student.image.new_tensor(2.0))
