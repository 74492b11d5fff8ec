"""The loss itself, imported when a run gives it a weight."""

import torch

from tinyclip_edge.losses import EmbeddedBatch, TermValue


class MarginTerm:
    """Hinge loss: a pair's cosine must exceed those with other texts of the batch by ``width``."""

    def __init__(self, student_width: int, teacher_width: int, *, width: float) -> None:
        self.modules: dict[str, torch.nn.Module] = {}  # trained with the student
        self.width = width

    def __call__(self, batch: EmbeddedBatch) -> TermValue:
        """Return the loss of unit-norm features ``[B, D]`` of the whole batch."""
        image, text = batch.student
        cosines = image @ text.T
        own = cosines.diagonal()[:, None]
        others = ~torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
        return TermValue((self.width + cosines - own).clamp(min=0)[others].mean())
