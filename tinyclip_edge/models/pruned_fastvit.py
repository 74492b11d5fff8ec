"""A timm FastViT whose feed-forward blocks differ in neurons after pruning."""

from __future__ import annotations

from typing import Any

from torch import nn

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.masked_fastvit import Bias, feed_forward_blocks
from tinyclip_edge.inheritance.units import TowerUnits
from tinyclip_edge.models.fresh_weights import filled
from tinyclip_edge.models.meta_device import on_meta_device


def pruned_fastvit(visual: nn.Module, units: TowerUnits, source: str) -> nn.Module:
    """Return open_clip's TimmModel with the given neurons in each block, random weights.

    ``visual`` is the unpruned tower, on the meta device. Raises ModelError for units of another
    tower.
    """
    tower: Any = visual
    stages = tuple(len(stage.blocks) for stage in tower.trunk.stages)
    widths = tuple(stage.blocks[0].mlp.fc1.in_channels for stage in tower.trunk.stages)
    if (stages, widths) != (units.stages, units.widths):
        raise ModelError(
            f"{source}: stages {list(units.stages)} of {list(units.widths)} channels, vision_cfg "
            f"has {list(stages)} of {list(widths)}"
        )
    with on_meta_device():
        blocks = list(feed_forward_blocks(tower.trunk))
        for (name, block), neurons in zip(blocks, units.neurons, strict=True):
            if neurons:
                block.fc1 = nn.Conv2d(block.fc1.in_channels, neurons, kernel_size=1)
                block.fc2 = nn.Conv2d(neurons, block.fc2.out_channels, kernel_size=1)
            else:
                owner, _, attribute = name.rpartition(".")
                setattr(tower.trunk.get_submodule(owner), attribute, Bias(block.fc2.out_channels))
    return filled(tower)
