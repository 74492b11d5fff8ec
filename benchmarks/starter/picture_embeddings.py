"""Where a trained image tower has the training pictures, and the concepts that they show."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from starter.augment import augment
from starter.teacher_data import Sampler
from starter.teacher_model import encode_image, normalise

PICTURES = 256  # embedded at once


@torch.no_grad()
def embed_pictures(model: torch.nn.Module, sampler: Sampler, augmented: int = 0) -> Tensor:
    """Unit-norm embeddings ``[1 + augmented, N, 256]`` of the training pictures, clean first."""
    torch.manual_seed(0)
    versions = []
    for version in range(1 + augmented):
        parts = [
            encode_image(model, augment(rgb, mono) if version else normalise(rgb))
            for rgb, mono in zip(
                torch.split(sampler.pixels, PICTURES),
                torch.split(sampler.mono, PICTURES),
                strict=True,
            )
        ]
        versions.append(torch.cat(parts))
    return torch.stack(versions)


def concept_places(pictures: Tensor, rows: Tensor, concepts: int) -> Tensor:
    """Unit-norm mean ``[C, D]`` of all versions ``[V, N, D]`` of a concept's pictures."""
    sums = torch.zeros(concepts, pictures.shape[-1])
    for version in pictures:
        sums.index_add_(0, rows, version)
    return F.normalize(sums, dim=-1)
