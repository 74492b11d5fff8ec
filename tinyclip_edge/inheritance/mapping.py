"""Learn to combine a student's weights from its teacher's, instead of selecting among them.

A student's weight is ``A_out (Σ_k c_k W_k) A_inᵀ``, with the weights ``W_k`` of all teacher layers,
as in CLIP-Map (arXiv 2602.05909) and, for growing models, LiGO (arXiv 2303.00980). The factors
start as the selection of a plan, so that the initial student is the one of that plan. Shapes: S
layers of the student, T of the teacher; s units of an axis in the student, t in the teacher.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.plan_types import Indices, InheritancePlan, TowerPlan
from tinyclip_edge.inheritance.shape import count_blocks
from tinyclip_edge.inheritance.tower_kind import (
    BOTH,
    SHARED,
    STACKED,
    Place,
    TowerKind,
    TowerName,
    split_key,
)
from tinyclip_edge.inheritance.tower_kinds import TOWER_KINDS, recognise
from tinyclip_edge.inheritance.uniform import axis_units, take_units

SELECTED = ("positions", "tokens")  # axes without a factor: the same units as in the plan
BY_LAYER = ("attended", "neurons")  # axes with a factor for each layer
# Cut off to get a tensor's module, whose weight and bias share one mixture of teacher layers.
_PARAMETER = re.compile(r"[._]?(weight|bias|gamma)$")


@dataclass(frozen=True, slots=True)
class _Part:
    """One tensor of all layers of a tower, or one outside them; factors and buffers by name."""

    keys: tuple[str, ...]  # in the student
    teacher: str  # [T, ...]; [1, ...] outside the layers
    depth: str | None  # factor [S, T]
    width: tuple[tuple[int, str], ...]  # axis and factor [1 or S, s, t]
    units: str | None  # teacher's indices [1 or S, s] of a gain


@dataclass(frozen=True, slots=True)
class _Sources:
    """The teacher's weights, and the plan that selects among them."""

    state: Mapping[str, Tensor]
    plan: InheritancePlan

    def groups(
        self, student_state: Mapping[str, Tensor]
    ) -> Iterator[tuple[TowerName, str, list[tuple[str, Place]]]]:
        """Yield tower, name and student keys of each inherited tensor, grouped over layers."""
        groups: dict[tuple[TowerName, str], list[tuple[str, Place]]] = {}
        for key in student_state:
            tower = split_key(key)[0]
            if key in SHARED or getattr(self.plan, tower) is None:
                continue
            kind, tower_plan = self.tower(tower)
            place = kind.locate(key, tower_plan.prefixes[1])
            if place is None:
                raise InheritanceError(f"there is no rule to map '{key}' of a {kind.name} tower")
            if "tokens" in place.axes and not self.plan.tokens:
                continue
            groups.setdefault((tower, place.name), []).append((key, place))
        for (tower, name), places in groups.items():
            yield tower, name, sorted(places, key=lambda each: each[1].layer or 0)

    def tower(self, tower: TowerName) -> tuple[TowerKind, TowerPlan]:
        """Return the kind and the plan of a tower."""
        tower_plan = getattr(self.plan, tower)
        assert isinstance(tower_plan, TowerPlan)  # check_mappable refuses a ResNet
        return TOWER_KINDS[tower_plan.kind], tower_plan

    def tensors(self, tower: TowerName, place: Place) -> Tensor:
        """Return a tensor of all teacher layers, ``[T, ...]``; outside them ``[1, ...]``."""
        kind, tower_plan = self.tower(tower)
        prefix, student_prefix = tower_plan.prefixes
        if place.layer is None:
            tensor = self.state[prefix + place.name.removeprefix(student_prefix)]
            indices = axis_units(tower_plan, self.plan, None)
            fixed = [indices[axis] if axis in SELECTED else None for axis in place.axes]
            return take_units(tensor, fixed)[None].float()
        blocks = prefix + kind.blocks
        layers = count_blocks(self.state, blocks, f"the teacher's {tower} tower")
        tensors = [self.state[f"{blocks}{layer}.{place.name}"] for layer in range(layers)]
        return torch.stack([tensor.detach() for tensor in tensors]).float()

    def units(self, tower: TowerName, axis: str) -> list[Indices]:
        """Return the teacher's units of an axis, one tuple per layer if layers differ."""
        _, tower_plan = self.tower(tower)
        layers = range(len(tower_plan.layers)) if axis in BY_LAYER else (None,)
        return [axis_units(tower_plan, self.plan, layer)[axis] for layer in layers]


def check_mappable(teacher_state: Mapping[str, Tensor], towers: Iterable[TowerName]) -> None:
    """Raise InheritanceError if the weights of one of a teacher's towers cannot be mapped."""
    for tower in towers:
        kind, _ = recognise(teacher_state, tower)
        if not kind.gains:
            kinds = ", ".join(each.name for each in TOWER_KINDS.values() if each.gains)
            raise InheritanceError(
                f"the {tower} tower is a {kind.name}, whose weights cannot be mapped ({kinds} can "
                "be); set inherit.plan to evenly"
            )


class WeightMapping(nn.Module):
    """The factors of all weights that a student inherits; they start as the selection of a plan.

    Teacher weights are stored without gradients and are not part of the state dict. Raises
    InheritanceError for towers that cannot be mapped.
    """

    def __init__(
        self,
        teacher_state: Mapping[str, Tensor],
        student_state: Mapping[str, Tensor],
        plan: InheritancePlan,
    ) -> None:
        super().__init__()
        check_mappable(teacher_state, [t for t in BOTH if getattr(plan, t) is not None])
        self.depth = nn.ParameterDict()
        self.width = nn.ParameterDict()
        sources = _Sources(teacher_state, plan)
        self._parts = [
            self._part(sources, f"teacher_{number}", tower, name, places)
            for number, (tower, name, places) in enumerate(sources.groups(student_state))
        ]

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the student's mapped weights."""
        return tuple(key for part in self._parts for key in part.keys)

    def forward(self) -> dict[str, Tensor]:
        """Return the student's mapped weights by name, with gradients to the factors."""
        weights: dict[str, Tensor] = {}
        for part in self._parts:
            weights.update(zip(part.keys, self._mapped(part).unbind(0), strict=True))
        return weights

    @torch.no_grad()
    def spread(self) -> dict[str, float]:
        """Return how much of units (width) and layers (depth) is not from their strongest source.

        The share of a source is its square over the sum of squares in a factor's row; rows are
        averaged. Both values are 0 at the start.
        """
        return {
            name: float(torch.cat([_weaker(factor) for factor in factors.values()]).mean())
            for name, factors in (("width", self.width), ("depth", self.depth))
        }

    def _mapped(self, part: _Part) -> Tensor:
        """Return the tensors of a part, ``[S, ...]``."""
        x = self.get_buffer(part.teacher)
        if part.depth is not None:
            x = torch.tensordot(self.depth[part.depth], x, dims=1)
        if part.units is not None:
            units = self.get_buffer(part.units)
            x = x.gather(1, units.expand(len(x), -1))
        for axis, factor in part.width:
            x = map_axis(x, axis + 1, self.width[factor])
        return x

    def _part(
        self,
        sources: _Sources,
        buffer: str,
        tower: TowerName,
        name: str,
        places: list[tuple[str, Place]],
    ) -> _Part:
        place, depth = places[0][1], None
        tensors = sources.tensors(tower, place)
        self.register_buffer(buffer, tensors, persistent=False)
        if place.layer is not None:
            depth = f"{tower}_{_PARAMETER.sub('', name).replace('.', '_')}"
            if depth not in self.depth:
                layers = sources.tower(tower)[1].layers
                self.depth[depth] = nn.Parameter(_selection(layers, len(tensors)))
        units, width = None, []
        for axis, axis_name in enumerate(place.axes):
            if axis_name is None or axis_name in SELECTED:
                continue
            unit, copies = STACKED.get(axis_name, (axis_name, 1))
            if place.gain:
                units = self._gain_units(sources, tower, unit)
                continue
            factor = unit if unit == "embed" else f"{tower}_{unit}_{_side(place, axis)}"
            if factor not in self.width:
                size = tensors.shape[axis + 1] // copies
                start = [_selection(indices, size) for indices in sources.units(tower, unit)]
                self.width[factor] = nn.Parameter(torch.stack(start))
            width.append((axis, factor))
        width.sort(key=lambda each: self.width[each[1]].shape[1])  # the fewest rows first
        return _Part(tuple(key for key, _ in places), buffer, depth, tuple(width), units)

    def _gain_units(self, sources: _Sources, tower: TowerName, axis: str) -> str:
        """Return the name of the buffer with the units of an axis, part of the state dict."""
        name = f"{tower}_{axis}"
        if not hasattr(self, name):
            self.register_buffer(name, torch.tensor(sources.units(tower, axis)))
        return name


def map_axis(x: Tensor, axis: int, factor: Tensor) -> Tensor:
    """Map an axis of ``x [S, ...]`` by ``factor [1 or S, s, t]``, and stacked copies alike."""
    moved = x.movedim(axis, -1)
    rows = moved.reshape(len(factor), -1, factor.shape[-1]) @ factor.mT
    return rows.reshape(*moved.shape[:-1], -1).movedim(-1, axis)


def _side(place: Place, axis: int) -> str:
    """Return whether a tensor produces ("out") or consumes ("in") the units of an axis."""
    if len(place.axes) == 1:  # a bias
        return "out"
    name = place.axes[axis]
    if name == "channels":
        return "out" if place.writes else "in"
    return "in" if axis == 1 and name != "embed" else "out"


def _selection(indices: Indices, size: int) -> Tensor:
    """Return the matrix ``[s, t]`` that selects units."""
    return torch.eye(size)[list(indices)]


def _weaker(factor: Tensor) -> Tensor:
    """Return the share of each row's sum of squares that is not the largest square."""
    squares = factor.square().flatten(0, -2)
    return 1 - squares.amax(dim=-1) / squares.sum(dim=-1)
