"""SmoothQuant (arXiv 2211.10438) before the export: outliers of activations move into weights.

A channel of an activation is divided by a factor where it is made and multiplied where it is read:
the float model is the same, and its activations fit eight bits better.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tinyclip_export.towers.blocks import Attention, Block, OpenClip, Projection
from tinyclip_export.towers.timm import TimmTower

STRENGTHS = (0.3, 0.5, 0.7)  # how much of a channel's range moves: 0 none, 1 all
PEAK_INPUTS = 128  # on which the largest activations are looked up
Reader: TypeAlias = "nn.Linear | Projection"


@dataclass(frozen=True, slots=True)
class Fold:
    """An activation ``[..., C]``: the layer that makes it and the layers that read it."""

    producer: nn.LayerNorm | nn.Linear
    readers: tuple[Reader, ...]


def folds(tower: nn.Module) -> list[Fold]:
    """Return all activations of a tower whose factors can move exactly, in a fixed order.

    Behind a LayerNorm: queries, keys and values, the first layer of an MLP, the projection. Values
    of an attention, read by its last layer: a product with weights a token leaves channels apart.
    What follows an activation function stays.
    """
    all_folds: list[Fold] = []
    for module in tower.modules():
        if isinstance(module, Block):
            all_folds += _of_block(module)
        elif isinstance(module, Attention):
            all_folds.append(Fold(module.v, (module.out,)))
    for name in ("ln_post", "ln_final"):
        all_folds += _fold(getattr(tower, name, None), getattr(tower, "projection", None))
    if isinstance(tower, TimmTower):
        all_folds += _of_timm(tower)
    return all_folds


def activation_peaks(tower: nn.Module, inputs: Iterable[Tensor]) -> list[Tensor]:
    """Return each fold's largest absolute value a channel, float64 ``[C]``, over all `inputs`."""
    all_folds = folds(tower)
    peaks = [torch.zeros(0, dtype=torch.float64) for _ in all_folds]

    def record(index: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maxima = inputs[0].detach().abs().flatten(0, -2).amax(dim=0).double()
        peaks[index] = torch.maximum(peaks[index], maxima) if len(peaks[index]) else maxima

    # Every reader: in the last block queries are made of fewer tokens than keys.
    hooks = [
        reader.register_forward_pre_hook(partial(record, index))
        for index, fold in enumerate(all_folds)
        for reader in fold.readers
    ]
    try:
        with torch.inference_mode():
            for value in inputs:
                tower(value)
    finally:
        for hook in hooks:
            hook.remove()
    return peaks


def smoothed(tower: nn.Module, peaks: list[Tensor], strength: float) -> nn.Module:
    """Return a copy of `tower` whose channels have moved; `tower` and its weights stay.

    The factor of channel c is ``peak[c] ** strength / weight[c] ** (1 - strength)`` with the
    largest weight that reads it. Computed in float64, so that each weight is rounded once.
    """
    out = copy.deepcopy(tower)
    with torch.no_grad():
        for fold, peak in zip(folds(out), peaks, strict=True):
            factor = _factors(fold, peak, strength)
            for name in ("weight", "bias"):
                parameter = getattr(fold.producer, name)
                if parameter is not None:
                    factors = factor if parameter.ndim == 1 else factor[:, None]
                    parameter.copy_(parameter.double() / factors)
            for reader in fold.readers:
                weight, factors = _columns(reader, factor)
                weight.copy_(weight.double() * factors)
    return out


def _factors(fold: Fold, peak: Tensor, strength: float) -> Tensor:
    weight = torch.zeros_like(peak)
    for reader in fold.readers:
        matrix = reader.matrix.T if isinstance(reader, Projection) else reader.weight
        weight = torch.maximum(weight, matrix.detach().abs().amax(dim=0).double())
    factor = peak**strength / weight ** (1 - strength)
    # A channel that is never used or never read has nothing to move.
    return torch.where((peak > 0) & (weight > 0), factor, torch.ones_like(factor))


def _columns(reader: Reader, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight that reads, and the factors as they lie along it."""
    if isinstance(reader, Projection):
        return reader.matrix, factor[:, None]
    return reader.weight, factor


def _of_block(block: Block) -> Iterator[Fold]:
    if isinstance(block.attention, Attention):
        attention = block.attention
        yield from _fold(block.ln_1, attention.q, attention.k, attention.v)
    yield from _fold(block.ln_2, block.up)


def _of_timm(tower: TimmTower) -> Iterator[Fold]:
    from timm.models.vision_transformer import Block as TimmBlock

    for module in tower.modules():
        # Not by names: a block of another kind may have its norms behind its layers.
        if type(module) is TimmBlock:
            block: OpenClip = module
            yield from _fold(block.norm1, getattr(block.attn, "qkv", None))
            yield from _fold(block.norm2, getattr(block.mlp, "fc1", None))


def _fold(producer: nn.Module | None, *readers: nn.Module | None) -> Iterator[Fold]:
    """Give the fold, unless a prune or the architecture left other layers there."""
    if isinstance(producer, nn.LayerNorm) and producer.elementwise_affine:
        linear_readers = tuple(
            reader for reader in readers if isinstance(reader, nn.Linear | Projection)
        )
        if len(linear_readers) == len(readers):
            yield Fold(producer, linear_readers)
