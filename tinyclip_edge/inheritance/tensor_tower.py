"""Towers as tables of tensors, which can be run masked or pruned.

The modules of timm and transformers assume that all layers have equal sizes. Here a tower is a
table of tensors, keyed as in its library, plus settings that tensors do not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.gates import TowerMasks
from tinyclip_edge.inheritance.prune import cut, mask_factors, unshared
from tinyclip_edge.inheritance.tower_kind import TowerKind
from tinyclip_edge.inheritance.units import TowerUnits

Tensors: TypeAlias = "Mapping[str, Tensor]"  # by key without the tower's prefix


def masked_tensors(
    tower: nn.Module, kind: TowerKind, units: TowerUnits, masks: TowerMasks | None
) -> dict[str, Tensor]:
    """Return the tensors of a tower without the units that are off, the others' factors folded in.

    Gradients reach weights and masks. The token table stays whole: its rows are masked after they
    are looked up.
    """
    tensors: dict[str, Tensor] = dict(tower.named_parameters())
    tensors |= {name: t for name, t in tower.named_buffers() if kind.locate(name, "") is not None}
    tensors = unshared(tensors, kind, len(units.heads))
    if masks is None:
        return tensors
    result = {}
    outer = mask_factors(masks, None, units)
    layers = [mask_factors(masks, layer, units) for layer in range(len(units.heads))]
    for name, tensor in tensors.items():
        place = kind.locate(name, "")
        if place is None:
            raise InheritanceError(f"there is no rule to mask '{name}' of a {kind.name}")
        if "tokens" in place.axes:
            result[name] = tensor
            continue
        factors = outer if place.layer is None else layers[place.layer]
        part = cut(place, tensor, factors, fold=True)
        if part is not None:
            result[name] = part.to(tensor.dtype)
    return result


def blocks_of(tensors: Tensors, prefix: str, layers: int) -> list[dict[str, Tensor]]:
    """Return the tensors of each layer, keys without the layer's prefix."""
    blocks: list[dict[str, Tensor]] = [{} for _ in range(layers)]
    for key, tensor in tensors.items():
        if key.startswith(prefix):
            number, _, name = key.removeprefix(prefix).partition(".")
            blocks[int(number)][name] = tensor
    return blocks


def linear(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    """Apply a linear layer, with or without a bias."""
    return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def norm(tensors: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    """Apply a LayerNorm over the last axis, if the tower has one of this name."""
    weight = tensors.get(f"{name}.weight")
    if weight is None:
        return x
    return F.layer_norm(x, weight.shape, weight, tensors.get(f"{name}.bias"), eps).to(x.dtype)
