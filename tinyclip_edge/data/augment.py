"""Random crops, flips and colour changes at every step, applied on the device.

They depend only on seed, step and row, so that a resumed run sees the same pictures. B pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tinyclip_edge.data.pixels import LEVELS
from tinyclip_edge.data.views import RATIO

DRAWS = 11  # distinguishes this generator from others with the same seed
BOX, FLIP, COLOURS = slice(0, 4), 4, slice(5, 8)  # columns of a draw
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision


@dataclass(frozen=True, slots=True)
class Augment:
    """Random crop (torchvision's RandomResizedCrop in expectation), horizontal flip and colours."""

    crop: tuple[float, float]  # smallest and largest share of a picture's area
    flip: float = 0.0  # probability
    colour: float = 0.0  # brightness, contrast and saturation change by up to this share

    def draw(self, seed: int, step: int, size: int) -> Tensor:
        """Return float32 ``[B, 8]``: left, top, width, height (shares), flip, three factors."""
        random = np.random.default_rng([seed, DRAWS, step])
        area = random.uniform(self.crop[0], self.crop[1], size)
        least, most = (math.log(side) for side in RATIO)
        ratio = np.exp(random.uniform(least, most, size))
        wide = np.minimum(1.0, np.sqrt(area * ratio))
        high = np.minimum(1.0, np.sqrt(area / ratio))
        x, y = random.random(size) * (1 - wide), random.random(size) * (1 - high)
        flipped = random.random(size) < self.flip
        factors = random.uniform(1 - self.colour, 1 + self.colour, (3, size))
        return torch.from_numpy(np.stack([x, y, wide, high, flipped, *factors], axis=1)).float()


def apply_draws(pixels: Tensor, draws: Tensor) -> Tensor:
    """Apply ``draws [B, 8]`` to uint8 ``pixels``; return uint8 ``[B, 3, H, W]`` on their device."""
    draws = draws.to(pixels.device, non_blocking=True)
    shown = F.grid_sample(
        pixels.float().div_(LEVELS),
        _grid(draws, pixels.shape),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    brightness, contrast, saturation = draws[:, COLOURS].T[..., None, None, None]
    shown = shown.mul_(brightness).clamp_(0, 1)
    grey = shown.new_tensor(GREY).view(3, 1, 1)
    mean = (shown * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    shown = torch.lerp(mean, shown, contrast).clamp_(0, 1)
    shown = torch.lerp((shown * grey).sum(1, keepdim=True), shown, saturation).clamp_(0, 1)
    return shown.mul_(LEVELS).round_().to(torch.uint8)


def _grid(draws: Tensor, shape: torch.Size) -> Tensor:
    """Return the position of each crop pixel in its picture, ``[B, H, W, 2]`` from -1 to 1."""
    x, y, wide, high = draws[:, BOX].T
    mirror = 1 - 2 * draws[:, FLIP]
    nothing = torch.zeros_like(x)
    across = torch.stack([wide * mirror, nothing, 2 * x + wide - 1], dim=1)
    down = torch.stack([nothing, high, 2 * y + high - 1], dim=1)
    return F.affine_grid(torch.stack([across, down], dim=1), list(shape), align_corners=False)
