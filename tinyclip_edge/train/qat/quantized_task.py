"""Quantization-aware distillation: the student is rounded as in its export."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.qat.exported_stream import exported_stream
from tinyclip_edge.train.qat.fake_quant import Rounding, rounded
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskContext
from tinyclip_edge.train.tasks.encoders import PairEncoder


@dataclass(frozen=True, slots=True)
class TowerRounding:
    """Rounding of each tower; None leaves it float and freezes an image tower."""

    image: Rounding | None
    text: Rounding | None


class RoundedEncoder(PairEncoder):
    """Both towers of a CLIP, each rounded as in its export."""

    def __init__(self, clip: LoadedClip, rounding: TowerRounding) -> None:
        super().__init__(clip)
        self.rounding = rounding
        # Identified by id: training changes these parameters in place.
        self._image_stream = exported_stream(clip.model, "image")
        self._text_stream = exported_stream(clip.model, "text")

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return ``[B, D]`` of float32 ``[B, 3, H, W]``."""
        with rounded(self.rounding.image, self._image_stream):
            return super().encode_image(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return ``[B, D]`` of ``[B, L]`` tokens, L up to the context length."""
        with rounded(self.rounding.text, self._text_stream):
            return super().encode_text(tokens)


class QuantizedTask(DistillTask):
    """Distillation of a rounded student; a learnt scale starts at the student's own value."""

    def __init__(
        self,
        student: LoadedClip,
        context: TaskContext,
        *,
        rounding: TowerRounding,
        before: DistillTask | None = None,
    ) -> None:
        self._rounding = rounding
        super().__init__(student, context, before=before)

    def make_encoder(self, student: LoadedClip) -> PairEncoder:
        """Return the towers with the rounding of their export."""
        if self._rounding.image is None:
            _visual(student).requires_grad_(False)
        return RoundedEncoder(student, self._rounding)

    def first_scale(self) -> float:
        """Return the student's current scale."""
        return self.clip.logit_scale

    def first_bias(self) -> None:
        """Return None: the student keeps its own bias."""

    def train(self) -> None:
        """Put the student into training mode, except for a frozen image tower."""
        super().train()
        if self._rounding.image is None:
            _visual(self.clip).eval()


def _visual(clip: LoadedClip) -> nn.Module:
    return clip.model.get_submodule("visual")
