"""Distillation without optimisations, for comparison: float32, live teacher, full-length texts.

A direct implementation of the paper's affinity mimicking (arXiv 2309.12314, equations 1 to 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from tinyclip_edge.config import OptimConfig
    from tinyclip_edge.data import Batch, PixelCodec
    from tinyclip_edge.models import LoadedClip

SCALE = 50.0  # factor on cosine similarities, of teacher and student alike


class PlainLoop:
    """Teacher, student and AdamW; ``step`` trains on one batch and returns its loss."""

    def __init__(
        self,
        teacher: LoadedClip,
        student: LoadedClip,
        codec: PixelCodec,
        config: OptimConfig,
        *,
        device: str,
    ) -> None:
        self._teacher = teacher.model.to(device).eval()
        self._student = student.model.to(device).train().requires_grad_(True)
        self._tokenizers = teacher.tokenizer, student.tokenizer
        self._codec = codec
        self._device = device
        self._clip = config.grad_clip
        matrices = [p for p in self._student.parameters() if p.ndim > 1]
        vectors = [p for p in self._student.parameters() if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
        )

    def step(self, batch: Batch, *, lr: float | None = None) -> float:
        """Train on a batch; ``lr`` changes the learning rate from now on."""
        if lr is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
        pixels = self._codec.restore(batch.pixels.to(self._device))
        student_tokens, teacher_tokens = (
            read(list(batch.captions)) for read in reversed(self._tokenizers)
        )
        with torch.no_grad():
            targets = _similarity(self._teacher, pixels, teacher_tokens.to(self._device))
        logits = _similarity(self._student, pixels, student_tokens.to(self._device))
        loss = (_mimic(logits, targets) + _mimic(logits.T, targets.T)) / 2
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._student.parameters(), self._clip)
        self._optimizer.step()
        return float(loss.detach())


def _similarity(model: Any, pixels: Tensor, tokens: Tensor) -> Tensor:  # noqa: ANN401
    image = F.normalize(model.encode_image(pixels), dim=-1)
    text = F.normalize(model.encode_text(tokens), dim=-1)
    return SCALE * image @ text.T


def _mimic(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
