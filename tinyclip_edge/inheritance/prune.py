"""Remove masked units from a CLIP's weights and fold the factors of the others into them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.gates import ClipMasks, TowerMasks
from tinyclip_edge.inheritance.tower_kind import SHARED, STACKED, Place, TowerKind
from tinyclip_edge.inheritance.tower_kinds import locate
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits, inner_axes

# The axis of each part of a layer; a part without units on it is removed.
LOST_WITH = {"attention": "attended", "feed_forward": "neurons", "bottleneck": "convolved"}
# The part with norms after its weights: an output's factor is folded into the weights that read it.
NORMED = "bottleneck"
Moments: TypeAlias = "dict[str, dict[str, Tensor]]"  # by parameter name, as AdamW names them


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """The units that remain after a prune, and the factors folded into them."""

    masks: ClipMasks
    before: ClipUnits
    after: ClipUnits

    @classmethod
    def of(cls, units: ClipUnits, masks: ClipMasks) -> PrunePlan:
        """Keep every unit whose mask is not 0; raise InheritanceError when no channel is left."""
        image = _remaining_units(units.image, masks.image, "image")
        text = _remaining_units(units.text, masks.text, "text")
        return cls(masks, units, replace(units, image=image, text=text))

    def cut(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the pruned model's weights: units removed, factors folded in."""
        kinds = self.before.kinds
        layers = {tower: len(getattr(self.before, tower).heads) for tower in kinds}
        whole = dict(state)
        for tower, kind in kinds.items():
            whole = unshared(whole, kind, layers[tower])
        return self._cut(whole, fold=True)

    def slice(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Slice tensors with the names and shapes of the weights, without scaling them."""
        return self._cut(tensors, fold=False)

    @torch.no_grad()
    def _cut(self, state: Mapping[str, Tensor], *, fold: bool) -> dict[str, Tensor]:
        kinds, result = self.before.kinds, {}
        for name, tensor in state.items():
            if name in SHARED:
                result[name] = tensor.detach().clone()
                continue
            place = locate(name, kinds)
            if place is None:
                raise InheritanceError(f"there is no rule to prune '{name}': not a plain CLIP")
            units: TowerUnits = getattr(self.before, place.tower)
            factors = mask_factors(getattr(self.masks, place.tower), units.layer(place), units)
            if (part := cut(place, tensor.detach(), factors, fold=fold)) is not None:
                result[name] = part.clone()
        return result


def cut(
    place: Place, tensor: Tensor, factors: Mapping[str | None, Tensor], *, fold: bool
) -> Tensor | None:
    """Return a tensor without the units whose factor is 0, None if nothing is left of it.

    ``fold`` multiplies the weights that produce a unit's output by its factor, with gradients.
    """
    lost = LOST_WITH.get(place.part)
    if lost is not None and not factors[lost].any():
        return None
    result = tensor
    for axis, axis_name in enumerate(place.axes):
        if axis_name not in factors:  # positions, tokens and the embedding are not pruned
            continue
        of_axis = factors[axis_name].to(tensor.device)
        on = open_units(of_axis)
        result = result.index_select(axis, on)
        if fold and place.writes and (axis or place.part != NORMED):
            shape = [-1 if a == axis else 1 for a in range(result.ndim)]
            result = result * of_axis[on].to(result.dtype).view(shape)
    return result


def unshared(state: Mapping[str, Tensor], kind: TowerKind, layers: int) -> dict[str, Tensor]:
    """Return a state in which each layer has its own copy of the tensor that layer 0 shares."""
    result = dict(state)
    first = f"{kind.blocks}0.{kind.shared}"
    key = next((k for k in state if k.endswith(first)), None) if kind.shared else None
    if key is not None:
        for layer in range(1, layers):
            copy = f"{key.removesuffix(first)}{kind.blocks}{layer}.{kind.shared}"
            result.setdefault(copy, state[key])
    return result


def pruned_shape(place: Place, shape: Sequence[int], units: TowerUnits) -> tuple[int, ...] | None:
    """Return the shape of a tensor in a tower of the given units, None if it is gone."""
    sizes = {"channels": units.width}
    if not units.pooled:
        sizes["pooled"] = units.width
    if place.layer is not None:
        heads = units.heads[place.layer]
        sizes |= {"heads": heads, "attended": heads * units.head_width}
        sizes["neurons"] = units.neurons[place.layer]
        lost = LOST_WITH.get(place.part)
        if lost is not None and not sizes[lost]:
            return None
    pruned = list(shape)
    for axis, axis_name in enumerate(place.axes):
        whole, copies = STACKED.get(axis_name or "", (axis_name, 1))
        if whole in sizes:
            pruned[axis] = sizes[whole] * copies
    return tuple(pruned)


def open_units(factors: Tensor) -> Tensor:
    """Return the indices ``[N]`` of units that are on; if none is, the first, with factor 0."""
    on = factors.detach().nonzero().flatten()
    return on if len(on) else on.new_zeros(1)


def mask_factors(
    masks: TowerMasks, layer: int | None, units: TowerUnits
) -> dict[str | None, Tensor]:
    """Return one factor per index, for every axis that is pruned."""
    if units.stages:
        if layer is None:
            return {}
        axes = inner_axes(units.kind)
        first = len(axes) * layer
        return dict(zip(axes, masks.neurons[first : first + len(axes)], strict=True))
    factors: dict[str | None, Tensor] = {"channels": masks.hidden}
    if not units.pooled:
        factors["pooled"] = masks.hidden
    if layer is not None:
        attended = masks.heads[layer].repeat_interleave(units.head_width)
        factors |= {
            "heads": masks.heads[layer],
            "attended": attended,
            "qkv": attended.repeat(3),
            "neurons": masks.neurons[layer],
        }
    return factors


def slice_moments(moments: Moments, plan: PrunePlan) -> Moments:
    """Slice optimizer state by parameter name, as the weights are sliced.

    Tensors of a parameter's shape (AdamW's exp_avg and exp_avg_sq) are sliced and counters copied;
    parameters that the pruned model lacks are dropped.
    """
    result: Moments = {}
    for name, state in moments.items():
        sliced = {
            key: value.clone() if value.ndim == 0 else plan.slice({name: value}).get(name)
            for key, value in state.items()
        }
        if all(value is not None for value in sliced.values()):
            result[name] = {k: v for k, v in sliced.items() if v is not None}
    return result


def named_moments(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, Tensor]]
) -> Moments:
    """Return an optimizer's state by parameter name, for ``model.named_parameters()``."""
    return {
        name: {k: v for k, v in optimizer.state[p].items() if isinstance(v, Tensor)}
        for name, p in parameters
        if p in optimizer.state
    }


def load_moments(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, Tensor]], moments: Moments
) -> int:
    """Load state by parameter name into a new optimizer; return the number of parameters loaded.

    Raises InheritanceError for a state of another shape.
    """
    restored = 0
    for name, parameter in parameters:
        state = moments.get(name)
        if state is None:
            continue
        for key, value in state.items():
            if value.ndim and value.shape != parameter.shape:
                raise InheritanceError(
                    f"{key} of '{name}' is {list(value.shape)}, its parameter "
                    f"{list(parameter.shape)}"
                )
        optimizer.state[parameter] = dict(state)
        restored += 1
    return restored


def _remaining_units(units: TowerUnits, masks: TowerMasks, tower: str) -> TowerUnits:
    width = units.width if units.stages else int(masks.hidden.count_nonzero())
    if not width:
        raise InheritanceError(f"{tower} tower: every hidden channel is off; keep more")
    return replace(
        units,
        width=width,
        heads=tuple(int(z.count_nonzero()) for z in masks.heads),
        neurons=units.remaining([int(z.count_nonzero()) for z in masks.neurons]),
    )
