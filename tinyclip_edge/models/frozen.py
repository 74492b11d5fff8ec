"""Freeze towers of a CLIP that a student takes over unchanged from its teacher."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

from tinyclip_edge.inheritance.tower_kind import SHARED, TowerName, split_key


def freeze(model: nn.Module, towers: Collection[TowerName]) -> None:
    """Freeze all parameters of these towers, including the token table."""
    for tower in towers:
        for parameter in tower_parameters(model, tower):
            parameter.requires_grad_(False)


def tower_parameters(model: nn.Module, tower: TowerName) -> Iterator[nn.Parameter]:
    """Yield the parameters of a tower."""
    for name, parameter in model.named_parameters():
        if name not in SHARED and split_key(name)[0] == tower:
            yield parameter


def frozen_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the towers that are modules of their own and have nothing to train."""
    for name in ("visual", "text"):
        tower = getattr(model, name, None)
        if tower is not None and not any(weight.requires_grad for weight in tower.parameters()):
            yield tower
