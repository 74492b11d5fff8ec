"""The teachers of an ensemble: frozen towers, weights and temperatures."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tinyclip_edge.config import TeacherConfig
from tinyclip_edge.data import PixelCodec
from tinyclip_edge.models import LoadedClip, load_clip
from tinyclip_edge.train.tasks.encoders import PairEncoder


class FrozenEncoder(PairEncoder):
    """Towers without gradients, in the precision of their weights; pixels are passed as float32."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return float32 ``[B, D]``."""
        return super().encode_image(pixels.to(self.log_scale.dtype))


class WeightedTeacher(NamedTuple):
    """A teacher; the weight of the first one is 1."""

    clip: LoadedClip
    weight: float = 1.0
    temperature: float = 1.0  # by which its logits are divided


@dataclass(frozen=True, slots=True)
class TeacherMember:
    """One of the teachers."""

    clip: LoadedClip
    encoder: FrozenEncoder
    codec: PixelCodec
    weight: float  # normalised
    temperature: float
    share: float  # of the scale of the joined logits
    size: int | None  # pixels that the first teacher's pictures are resized to; None: not resized

    @property
    def bias(self) -> float | None:
        """The bias of its logits divided by its temperature; None for a softmax teacher."""
        bias = self.clip.logit_bias
        return None if bias is None else bias / self.temperature

    @property
    def temperature_entry(self) -> dict[str, float]:
        """Its temperature by name; 1 is omitted, as in records of earlier versions."""
        return {} if self.temperature == 1.0 else {"temperature": self.temperature}


def teacher_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of teachers: bfloat16 for bf16 runs on a GPU; on a CPU it is slower."""
    return torch.bfloat16 if precision == "bf16" and device.type == "cuda" else torch.float32


def load_ensemble(config: TeacherConfig) -> list[WeightedTeacher]:
    """Load the teachers after the first. Raises ModelError."""
    return [
        WeightedTeacher(load_clip(m.model, m.pretrained), m.weight, m.temperature)
        for m in config.ensemble
    ]


def frozen(clip: LoadedClip, device: torch.device, dtype: torch.dtype) -> FrozenEncoder:
    """Return the frozen towers of a model, as a copy if their precision differs."""
    clip.model.requires_grad_(False)
    if dtype != torch.float32:
        clip = replace(clip, model=deepcopy(clip.model))
    return FrozenEncoder(clip).to(device, dtype).eval().requires_grad_(False)
