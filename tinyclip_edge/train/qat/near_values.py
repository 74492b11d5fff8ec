"""Values as an exported file stores them: activations, weights and token rows in few bits.

Letters in shapes: B rows of a batch, K inputs, N outputs, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tinyclip_edge.errors import ModelError

LEVELS = 255  # steps of a uint8 activation
LARGEST = {"overflow_safe": 127, "7 bit": 64, "8 bit": 127}  # largest int8 weight by weight range
BLOCK = 32  # neighbouring values that share a scale in 4 bits
SHRINKS = tuple(0.7 + 0.05 * step for step in range(7))  # clipping factors tried for a 4-bit table


@torch.no_grad()
def as_uint8(x: Tensor, *, per_row: bool) -> Tensor:
    """Return ``x [B, ...]`` rounded by onnxruntime's DynamicQuantizeLinear, times its scale."""
    flat = x.reshape(len(x), -1) if per_row else x.reshape(1, -1)
    low, high = flat.amin(dim=1).clamp_max(0.0), flat.amax(dim=1).clamp_min(0.0)
    scale = (high - low) / LEVELS
    scale = torch.where(scale == 0.0, 1.0, scale)
    zero = (-low / scale).round().clamp(0, LEVELS)
    scale, zero = (part.view(-1, *[1] * (x.ndim - 1)) for part in (scale, zero))
    return ((x / scale).round() + zero).clamp(0, LEVELS).sub(zero).mul(scale)


@torch.no_grad()
def as_int8(weight: Tensor, weight_range: str) -> Tensor:
    """Return ``[N, K]`` as int8 weights with a scale per output column, times their scale."""
    values, scale = int8_weights(weight, weight_range)
    return values.to(weight.dtype) * scale[:, None].to(weight.dtype)


def int8_weights(weight: Tensor, weight_range: str) -> tuple[Tensor, Tensor]:
    """Return the int8 values ``[N, K]`` and scales ``[N]`` of a weight.

    "overflow_safe": any two neighbouring inputs of the same sign fit 16 bits with uint8
    activations.
    """
    exact, largest = weight.double(), LARGEST[weight_range]
    scale = exact.abs().amax(dim=1) / largest
    if weight_range == "overflow_safe":
        # A pair of opposite signs fits if its larger weight does, since its sum is smaller still.
        even = F.pad(exact, (0, exact.shape[1] % 2))
        sums = (even[:, 0::2] + even[:, 1::2]).abs_()
        scale = torch.maximum(scale, sums.amax(dim=1) / largest)
    else:
        exact, scale = weight, scale.to(weight.dtype)  # as onnxruntime divides
    scale = torch.where(scale == 0.0, 1.0, scale)
    return (exact / scale[:, None]).round(), scale


@torch.no_grad()
def half_bytes(weight: Tensor) -> Tensor:
    """Return ``[N, K]`` as 4-bit weights in blocks of 32 inputs, as MatMulNBits restores them."""
    width = weight.shape[1]
    blocks = F.pad(weight, (0, -width % BLOCK)).view(len(weight), -1, BLOCK)
    return _in_steps(blocks, _widest(blocks)).flatten(1)[:, :width]


@torch.no_grad()
def byte_rows(rows: Tensor) -> Tensor:
    """Return token rows ``[..., W]`` as int8 with one scale each, times their scale."""
    scale = rows.abs().amax(dim=-1, keepdim=True) / 127
    scale = torch.where(scale == 0.0, 1.0, scale)
    return (rows / scale).round() * scale


@torch.no_grad()
def table_blocks(rows: Tensor) -> Tensor:
    """Return token rows ``[..., W]`` in 4 bits, with the best of a few scales for each block.

    Raises ModelError for rows that do not split into blocks.
    """
    if rows.shape[-1] % BLOCK:
        raise ModelError(
            f"token table: rows of {rows.shape[-1]} values are not a multiple of {BLOCK}, as 4 "
            "bits require"
        )
    blocks = rows.reshape(*rows.shape[:-1], -1, BLOCK)
    widest = _widest(blocks)
    candidates = torch.stack([_in_steps(blocks, widest * shrink) for shrink in SHRINKS])
    best = (candidates - blocks).square().sum(-1).argmin(dim=0)
    nearest = candidates.gather(0, best[None, ..., None].expand(1, *blocks.shape))[0]
    return nearest.flatten(-2)


def _widest(blocks: Tensor) -> Tensor:
    """Return the scale at which a block's value of largest magnitude becomes -8, ``[..., 1]``."""
    extreme = blocks.gather(-1, blocks.abs().argmax(dim=-1, keepdim=True))
    scale = extreme / -8.0
    return torch.where(scale == 0.0, 1.0, scale)


def _in_steps(blocks: Tensor, scale: Tensor) -> Tensor:
    return (blocks / scale).round().clamp(-8, 7) * scale
