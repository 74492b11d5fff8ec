"""A vision transformer of timm whose layers differ in heads and neurons, as masks leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.masked_timm import TimmSettings, run_trunk
from tinyclip_edge.inheritance.prune import pruned_shape
from tinyclip_edge.inheritance.timm_kinds import TIMM_VIT
from tinyclip_edge.inheritance.units import TowerUnits
from tinyclip_edge.models.sized_timm import timm_sizes


class PrunedTrunk(nn.Module):
    """Parameters under timm's names, run from their table; random weights."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], settings: TimmSettings) -> None:
        super().__init__()
        self.settings = settings
        self.fused_attn = True  # as timm's attention has it
        for key, shape in shapes.items():
            *path, name = key.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            value = torch.ones(shape) if "norm" in key else torch.randn(shape) * 0.02
            module.register_parameter(name, nn.Parameter(value))

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to what timm's trunk returns."""
        settings = replace(self.settings, fused_attention=self.fused_attn)
        return run_trunk(dict(self.named_parameters()), settings, images)


def pruned_tower(visual: nn.Module, vision: Mapping[str, Any], units: TowerUnits) -> nn.Module:
    """Return open_clip's TimmModel with a trunk of the given units.

    ``visual`` is the tower before any prune, on meta. Raises ModelError for units that it cannot
    have.
    """
    settings = _settings(vision, units)
    shapes = {
        name.removeprefix("trunk."): shape
        for name, parameter in visual.named_parameters()
        if name.startswith("trunk.") and (shape := _shape(name, parameter, units)) is not None
    }
    tower: Any = visual
    tower.trunk = PrunedTrunk(shapes, settings)
    projection = getattr(tower.head, "proj", None)
    if projection is not None:
        inputs = units.pooled or units.width
        bias = projection.bias is not None
        tower.head.proj = nn.Linear(inputs, projection.out_features, bias=bias)
    built: nn.Module = tower
    return built


def _settings(vision: Mapping[str, Any], units: TowerUnits) -> TimmSettings:
    """Return the settings of a timm model, read from a small one with heads of the same width."""
    name, head = vision["timm_model_name"], units.head_width
    usual = timm_sizes(name)
    if usual is None:
        raise ModelError(f"{name} is not a vision transformer of timm, so it has no units")
    sizes: dict[str, Any] = {"embed_dim": head, "depth": 1, "num_heads": 1}
    pool_head = usual.pool_head_width
    if pool_head not in (None, usual.head_width):
        sizes["attn_pool_num_heads"] = 1
    trunk = timm.create_model(
        name,
        pretrained=False,
        num_classes=0,
        img_size=vision.get("image_size", 224),
        global_pool=vision.get("timm_pool", "avg"),
        **sizes,
    )
    shared = pool_head == usual.head_width  # the pool has as many heads as a block
    return replace(
        TimmSettings.of(trunk),
        layers=len(units.heads),
        head_width=head,
        pool_head_width=head if shared else pool_head or 0,
    )


def _shape(name: str, parameter: Tensor, units: TowerUnits) -> tuple[int, ...] | None:
    place = TIMM_VIT.locate(name, "")
    if place is None:
        raise ModelError(f"'visual.{name}' does not belong to a pruned timm model")
    return pruned_shape(place, parameter.shape, units)
