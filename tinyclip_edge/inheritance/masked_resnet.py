"""Run a ResNet with masks on the channels inside its blocks, or after these were pruned.

A factor of 0 switches a channel off after its norm and activation. Every channel is computed under
masks, so that the running statistics of all channels stay up to date while masks are sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.inheritance.gates import TowerMasks

ResNet: TypeAlias = Any  # open_clip's ModifiedResNet or a part of it, read by attributes
STAGES = ("layer1", "layer2", "layer3", "layer4")


class EmptyBottleneck(nn.Module):
    """A block whose inner channels are all off: its shortcut plus its last norm of zeros."""

    def __init__(self, block: ResNet) -> None:
        super().__init__()
        self.bn3: nn.BatchNorm2d = block.bn3
        self.downsample: nn.Module | None = block.downsample
        self.act3: nn.Module = block.act3

    def offset(self) -> Tensor:
        """Return the last norm of zeros, by its running statistics, ``[1, C, 1, 1]``."""
        norm = self.bn3
        zeros = torch.zeros_like(norm.weight)[None, :, None, None]
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(zeros, mean, variance, norm.weight, norm.bias, eps=norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C', H / stride, W / stride]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.act3(shortcut + self.offset())
        return out


def is_resnet(visual: ResNet) -> bool:
    """Whether an image tower is a ResNet of open_clip."""
    return hasattr(visual, "layer1") and hasattr(visual, "attnpool")


def bottlenecks(visual: ResNet) -> Iterator[tuple[str, ResNet]]:
    """Yield the name and the module of each block, in order."""
    for stage in STAGES:
        for number, block in enumerate(getattr(visual, stage)):
            yield f"{stage}.{number}", block


def masked_bottlenecks(visual: ResNet, masks: TowerMasks | None) -> dict[str, Tensor]:
    """Return the weights of convolutions that read masked channels, with the factors folded in.

    Gradients reach weights and masks.
    """
    tensors: dict[str, Tensor] = {}
    if masks is None:
        return tensors
    for number, (name, block) in enumerate(bottlenecks(visual)):
        if isinstance(block, EmptyBottleneck):
            continue
        reduced, convolved = masks.neurons[2 * number : 2 * number + 2]
        for reader, factors in (("conv2", reduced), ("conv3", convolved)):
            weight = block.get_parameter(f"{reader}.weight")
            scale = factors.to(weight.dtype).view(1, -1, 1, 1)
            tensors[f"{name}.{reader}.weight"] = weight * scale
    return tensors
