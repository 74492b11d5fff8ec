"""Cheap batched augmentation of pictograms. Works on ink = 1 - picture, so that white is zero."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def _uniform(n: int, low: float, high: float, reference: Tensor) -> Tensor:
    return torch.empty(n, device=reference.device).uniform_(low, high)


def _affine(ink: Tensor) -> Tensor:
    """Turn, shear, scale and shift [B, 3, H, W]; mirroring would change arrows and letters."""
    n = len(ink)
    angle = _uniform(n, -0.22, 0.22, ink)
    size = torch.exp(_uniform(n, -0.22, 0.22, ink))
    stretch = torch.exp(_uniform(n, -0.12, 0.12, ink))
    theta = torch.zeros(n, 2, 3, device=ink.device)
    theta[:, 0, 0] = angle.cos() * size * stretch
    theta[:, 0, 1] = -angle.sin() * size + _uniform(n, -0.08, 0.08, ink)
    theta[:, 1, 0] = angle.sin() * size
    theta[:, 1, 1] = angle.cos() * size / stretch
    theta[:, :, 2] = torch.empty(n, 2, device=ink.device).uniform_(-0.14, 0.14)
    grid = F.affine_grid(theta, list(ink.shape), align_corners=False)
    return F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _stroke(ink: Tensor, mono: Tensor) -> Tensor:
    """Thicken a third of the line drawings by one pixel, thin a few, and blur some pictures."""
    n = len(ink)
    roll = torch.rand(n, device=ink.device)
    thick = (mono & (roll < 0.33)).nonzero().flatten()
    if len(thick):
        ink[thick] = F.max_pool2d(ink[thick], 3, 1, 1)
    thin = (mono & (roll > 0.92)).nonzero().flatten()
    if len(thin):
        ink[thin] = 0.5 * (ink[thin] - F.max_pool2d(-ink[thin], 3, 1, 1))
    soft = (torch.rand(n, device=ink.device) < 0.15).nonzero().flatten()
    if len(soft):
        ink[soft] = F.avg_pool2d(ink[soft], 3, 1, 1)
    return ink


def _colours(ink: Tensor) -> Tensor:
    """Change brightness and saturation slightly; hue stays, as hearts and flags differ by it."""
    n = len(ink)
    grey = ink.mean(dim=1, keepdim=True)
    saturation = torch.where(
        torch.rand(n, device=ink.device) < 0.06, 0.0, _uniform(n, 0.6, 1.35, ink)
    )
    gain = _uniform(n, 0.75, 1.2, ink)
    channel = torch.empty(n, 3, 1, 1, device=ink.device).uniform_(0.92, 1.08)
    return (grey + (ink - grey) * saturation.view(-1, 1, 1, 1)) * gain.view(-1, 1, 1, 1) * channel


def _tint(picture: Tensor, mono: Tensor) -> Tensor:
    """Tint half of the line drawings and invert some; tint the background of a few others."""
    n = len(picture)
    roll = torch.rand(n, device=picture.device)
    paper = torch.where(roll < 0.25, 0.75, 1.0).view(-1, 1, 1, 1)
    paper = paper + (1 - paper) * torch.rand(n, 3, 1, 1, device=picture.device)
    ink = torch.rand(n, 3, 1, 1, device=picture.device) * 0.65 * (roll < 0.5).view(-1, 1, 1, 1)
    tinted = ink + (paper - ink) * picture
    swapped = 1 - (1 - ink * 0.4) * picture
    line = torch.where((roll > 0.9).view(-1, 1, 1, 1), swapped, tinted)
    return torch.where(mono.view(-1, 1, 1, 1), line, picture * torch.where(
        (roll < 0.12).view(-1, 1, 1, 1), paper, torch.ones_like(paper)))  # fmt: skip


@torch.no_grad()
def augment(rgb: Tensor, mono: Tensor) -> Tensor:
    """Augment uint8 pictures [B, 3, 64, 64] to -1..1; ``mono`` [B] marks line drawings."""
    ink = _affine(1 - rgb.float() / 255)
    ink = _colours(_stroke(ink, mono)).clamp_(0, 1)
    return _tint(1 - ink, mono).clamp_(0, 1).mul_(2).sub_(1)
