"""Interactive contrast: student embeddings among the teacher's (CLIP-KD, arXiv 2307.12732)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from tinyclip_edge.losses.contrastive import one_way_contrastive_loss
from tinyclip_edge.losses.feature import FeatureProjector
from tinyclip_edge.losses.objective import EmbeddedBatch, PairEmbeddings, TermValue


def interactive_loss(
    student: PairEmbeddings, teacher: PairEmbeddings, *, scale: float | Tensor
) -> Tensor:
    """Return the mean of two contrasts: student pictures among teacher texts, and the reverse.

    Features are ``[B, D]``, unit norm, of the global batch; row i of each is from the same pair.
    Float32 even under autocast; the teacher gets no gradient.
    """
    by_image = one_way_contrastive_loss(student.image, teacher.text.detach(), scale=scale)
    by_text = one_way_contrastive_loss(student.text, teacher.image.detach(), scale=scale)
    return (by_image + by_text) / 2


class InteractiveTerm:
    """Interactive contrast as a term of an objective."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        self.modules: Mapping[str, nn.Module] = {}
        if student_width != teacher_width:
            projector = FeatureProjector(student_width, teacher_width)
            self.modules = {"interactive_projector": projector}

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the loss; if widths differ, projected features are normalised again."""
        student = batch.student
        if "interactive_projector" in self.modules:
            image, text = self.modules["interactive_projector"](*student)
            student = PairEmbeddings(
                nn.functional.normalize(image, dim=-1), nn.functional.normalize(text, dim=-1)
            )
        return TermValue(interactive_loss(student, batch.teacher, scale=batch.student_scale))
