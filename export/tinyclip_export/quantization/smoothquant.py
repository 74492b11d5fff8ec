"""SmoothQuant (arXiv 2211.10438) before the export: move outliers of activations into weights.

Each channel of an activation is divided by a factor where it is produced and multiplied by it where
it is consumed. The float model stays the same, and its activations fit eight bits better.
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

STRENGTHS = (0.3, 0.5, 0.7)  # share of a channel's range that moves: 0 none, 1 all
PEAK_INPUTS = 128  # for measuring the largest activations
Reader: TypeAlias = "nn.Linear | Projection | nn.Conv2d"  # convolutions are pointwise
Norm: TypeAlias = "nn.LayerNorm | nn.BatchNorm2d"


@dataclass(frozen=True, slots=True)
class Fold:
    """An activation of C channels: the layer that produces it and the layers that consume it."""

    producer: Norm | nn.Linear
    readers: tuple[Reader, ...]


def folds(tower: nn.Module) -> list[Fold]:
    """Return all activations of a tower whose factors can be moved exactly, in a fixed order.

    These are the inputs of queries, keys and values, of an MLP and of the projection, each after a
    LayerNorm, or a BatchNorm in FastViT, and the values of an attention, since attention weights do
    not mix channels. Activations after a nonlinearity cannot be smoothed.
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
    """Return each fold's largest absolute value per channel, float64 ``[C]``, over all `inputs`."""
    all_folds = folds(tower)
    peaks = [torch.zeros(0, dtype=torch.float64) for _ in all_folds]

    def record(index: int, reader: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().movedim(1 if isinstance(reader, nn.Conv2d) else -1, -1)
        maxima = values.abs().flatten(0, -2).amax(dim=0).double()
        peaks[index] = torch.maximum(peaks[index], maxima) if len(peaks[index]) else maxima

    # Hook every reader: in the last block, queries come from fewer tokens than keys.
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
    """Return a smoothed copy of `tower`, which stays unchanged.

    The factor of channel c is ``peak[c] ** strength / weight[c] ** (1 - strength)``, where
    ``weight[c]`` is the largest weight that reads it. Computed in float64, so that each weight is
    rounded once.
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
        matrix = reader.matrix.T if isinstance(reader, Projection) else reader.weight.flatten(1)
        weight = torch.maximum(weight, matrix.detach().abs().amax(dim=0).double())
    factor = peak**strength / weight ** (1 - strength)
    # A channel that is always zero, or never read, keeps factor 1.
    return torch.where((peak > 0) & (weight > 0), factor, torch.ones_like(factor))


def _columns(reader: Reader, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return a reader's weight, and the factors in a shape that broadcasts along it."""
    if isinstance(reader, Projection):
        return reader.matrix, factor[:, None]
    if isinstance(reader, nn.Conv2d):
        return reader.weight, factor[:, None, None]
    return reader.weight, factor


def _of_block(block: Block) -> Iterator[Fold]:
    if isinstance(block.attention, Attention):
        attention = block.attention
        yield from _fold(block.ln_1, attention.q, attention.k, attention.v)
    yield from _fold(block.ln_2, block.up)


def _of_timm(tower: TimmTower) -> Iterator[Fold]:
    from timm.models.fastvit import AttentionBlock, ConvMlp
    from timm.models.vision_transformer import Block as TimmBlock

    for module in tower.modules():
        # By type, since blocks of other types may apply their norms after their layers.
        if type(module) is TimmBlock:
            block: OpenClip = module
            yield from _fold(block.norm1, getattr(block.attn, "qkv", None))
            yield from _fold(block.norm2, getattr(block.mlp, "fc1", None))
        elif type(module) is ConvMlp:
            mlp: OpenClip = module
            yield from _fold(getattr(mlp.conv, "bn", None), mlp.fc1)
        elif type(module) is AttentionBlock:
            attention_block: OpenClip = module
            mixer = attention_block.token_mixer
            yield from _fold(attention_block.norm, getattr(mixer, "qkv", None))


def _fold(producer: nn.Module | None, *readers: nn.Module | None) -> Iterator[Fold]:
    """Yield the fold, unless pruning or the architecture has other layers there."""
    scaled = (isinstance(producer, nn.LayerNorm) and producer.elementwise_affine) or (
        isinstance(producer, nn.BatchNorm2d) and producer.affine
    )
    linear_readers = tuple(reader for reader in readers if _is_reader(reader))
    if scaled and len(linear_readers) == len(readers):
        yield Fold(producer, linear_readers)  # type: ignore[arg-type]


def _is_reader(layer: nn.Module | None) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear | Projection)
