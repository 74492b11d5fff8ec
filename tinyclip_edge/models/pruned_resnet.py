"""An open_clip ResNet whose blocks differ in inner channels after pruning."""

from __future__ import annotations

from typing import Any

from torch import nn

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.masked_resnet import STAGES, EmptyBottleneck, bottlenecks
from tinyclip_edge.inheritance.units import TowerUnits
from tinyclip_edge.models.fresh_weights import filled
from tinyclip_edge.models.meta_device import on_meta_device


def pruned_resnet(visual: nn.Module, units: TowerUnits, source: str) -> nn.Module:
    """Return open_clip's ModifiedResNet with the given inner channels, random weights.

    ``visual`` is the unpruned tower, on the meta device. Raises ModelError for units of another
    tower.
    """
    tower: Any = visual
    stages = [getattr(tower, stage) for stage in STAGES]
    sizes = tuple(len(stage) for stage in stages)
    widths = tuple(stage[0].conv3.out_channels for stage in stages)
    if (sizes, widths, tower.conv3.out_channels) != (units.stages, units.widths, units.width):
        raise ModelError(
            f"{source}: stages {list(units.stages)} of {list(units.widths)} channels after "
            f"{units.width}, vision_cfg has {list(sizes)} of {list(widths)} after "
            f"{tower.conv3.out_channels}"
        )
    with on_meta_device():
        for number, (name, block) in enumerate(list(bottlenecks(tower))):
            reduced, convolved = units.neurons[2 * number : 2 * number + 2]
            if convolved and reduced:
                _resize(block, reduced, convolved)
            elif convolved:
                raise ModelError(
                    f"{source}: block {name} has {convolved} channels after its second convolution "
                    "and none after its first"
                )
            else:
                stage, _, place = name.partition(".")
                getattr(tower, stage)[int(place)] = EmptyBottleneck(block)
    return filled(tower)


def _resize(block: Any, reduced: int, convolved: int) -> None:  # noqa: ANN401 - of open_clip
    """Change a block's channels after its first and its second convolution."""
    block.conv1 = nn.Conv2d(block.conv1.in_channels, reduced, 1, bias=False)
    block.bn1 = nn.BatchNorm2d(reduced)
    block.conv2 = nn.Conv2d(reduced, convolved, 3, padding=1, bias=False)
    block.bn2 = nn.BatchNorm2d(convolved)
    block.conv3 = nn.Conv2d(convolved, block.conv3.out_channels, 1, bias=False)
