"""A timm vision transformer whose layers differ in heads and neurons after pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance.masked_timm import STEM, TimmSettings, run_trunk
from tinyclip_edge.inheritance.prune import pruned_shape
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS
from tinyclip_edge.inheritance.units import TowerUnits
from tinyclip_edge.models.fresh_weights import filled
from tinyclip_edge.models.sized_timm import timm_sizes


class PrunedTrunk(nn.Module):
    """Random parameters under timm's names, run from a table of them."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        settings: TimmSettings,
        stem: nn.Module | None = None,  # convolutions in place of a patch embedding
    ) -> None:
        super().__init__()
        self.settings = settings
        self._has_stem = stem is not None
        if stem is not None:
            self.patch_embed = stem
        self.fused_attn = True  # the same switch as in timm's attention
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
        """Map ``[B, 3, H, W]`` to the output of timm's trunk."""
        settings = replace(self.settings, fused_attention=self.fused_attn)
        stem = self.patch_embed if self._has_stem else None
        return run_trunk(dict(self.named_parameters()), settings, images, stem)


def pruned_tower(visual: nn.Module, vision: Mapping[str, Any], units: TowerUnits) -> nn.Module:
    """Return open_clip's TimmModel with a trunk of the given units.

    ``visual`` is the unpruned tower, on the meta device. Raises ModelError for units that do not
    fit it.
    """
    tower: Any = visual
    has_stem = hasattr(tower.trunk.patch_embed, "backbone")
    settings = _settings_of(tower, units) if has_stem else _settings(vision, units)
    skipped = STEM if has_stem else ()
    shapes = {
        name.removeprefix("trunk."): shape
        for name, parameter in visual.named_parameters()
        if name.startswith("trunk.")
        and not name.startswith(skipped)
        and (shape := _shape(name, parameter, units)) is not None
    }
    stem = _stem(tower.trunk.patch_embed, units) if has_stem else None
    tower.trunk = PrunedTrunk(shapes, settings, stem)
    projection = getattr(tower.head, "proj", None)
    if projection is not None:
        inputs = units.pooled or units.width
        bias = projection.bias is not None
        tower.head.proj = nn.Linear(inputs, projection.out_features, bias=bias)
    built: nn.Module = tower
    return built


def _stem(stem: Any, units: TowerUnits) -> nn.Module:  # noqa: ANN401 - of timm
    """Return a stem of convolutions whose last one outputs only the remaining channels."""
    for name, parameter in list(stem.named_parameters()):
        shape = _shape(STEM + name, parameter, units)
        if shape is not None and shape != tuple(parameter.shape):
            path, _, attribute = name.rpartition(".")
            layer = stem.get_submodule(path)
            setattr(layer, attribute, nn.Parameter(torch.empty(shape, device="meta")))
            layer.out_channels = shape[0]
    return filled(stem)


def _settings_of(tower: Any, units: TowerUnits) -> TimmSettings:  # noqa: ANN401 - of open_clip
    """Return the settings of a tower that begins with convolutions, which has no rotary table."""
    try:
        settings = TimmSettings.of(tower.trunk)
    except InheritanceError as error:
        raise ModelError(str(error)) from error
    return replace(settings, layers=len(units.heads), head_width=units.head_width)


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
    place = TOWER_KINDS[units.kind].locate(name, "")
    if place is None:
        raise ModelError(f"'visual.{name}' does not belong to a pruned timm model")
    return pruned_shape(place, parameter.shape, units)
