"""Masks that leave every layer of a tower alike, so that an ordinary CLIP remains.

An ordinary tower of k heads is k head widths wide in each layer. Of all head counts and
feed-forward widths that add up to the size the gates ask for, those are taken whose units the
gates most expect to survive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.gates import (
    ClipGates,
    ClipMasks,
    TowerGates,
    TowerMasks,
    keep_strongest,
    survival,
)
from tinyclip_edge.inheritance.prune import PrunePlan
from tinyclip_edge.inheritance.sparsity import TOLERANCE
from tinyclip_edge.inheritance.units import TowerUnits

_DIGITS = 6  # of the mean survival: closer ones are a tie, which the old proportions decide


@dataclass(frozen=True, slots=True)
class _Choice:
    units: TowerUnits
    score: float  # expected size of the units taken
    stretch: float  # how far neurons per channel are from the tower's own proportion


def equal_masks(gates: ClipGates, *, nearest: bool = False) -> ClipMasks:
    """Return masks with equal layers and the size of ``gates.binarised()``, within one point.

    Raises InheritanceError when no ordinary shape has that size, unless ``nearest`` will do.
    """
    wanted = PrunePlan.of(gates.units, gates.binarised()).after
    image, text = (_TowerUnits(name, getattr(gates, name)) for name in ("image", "text"))
    ranked = [
        (_miss(pair, wanted.prunable, gates.units.prunable), pair)
        for pair in _pairs(image, text, wanted.image.prunable, wanted.prunable)
    ]
    least = min(miss for miss, _ in ranked)
    if least > TOLERANCE / 2 and not nearest:
        raise InheritanceError(
            f"no CLIP with equal layers has the size the masks ask for ({wanted.prunable:,} "
            f"parameters): the nearest is {least:.1%} off; set uniform_shapes: false"
        )
    allowed = max(least, TOLERANCE / 2)
    chosen = max((pair for miss, pair in ranked if miss <= allowed), key=_rank)
    return ClipMasks(image.masks(chosen[0].units), text.masks(chosen[1].units))


def _miss(pair: tuple[_Choice, _Choice], wanted: int, whole: int) -> float:
    return abs(sum(choice.units.prunable for choice in pair) - wanted) / whole


def _rank(pair: tuple[_Choice, _Choice]) -> tuple[float, float]:
    """Return the mean survival of a parameter taken, and how well the old proportions are kept."""
    size = sum(choice.units.prunable for choice in pair)
    mean = round(sum(choice.score for choice in pair) / size, _DIGITS)
    return mean, -sum(choice.stretch for choice in pair)


def _pairs(
    image: _TowerUnits, text: _TowerUnits, image_size: int, size: int
) -> Iterator[tuple[_Choice, _Choice]]:
    """Try all head counts; what one tower cannot take or give, the other does."""
    for i, t in product(image.head_counts, text.head_counts):
        first = image.choice(i, image_size)
        second = text.choice(t, size - first.units.prunable)
        yield image.choice(i, size - second.units.prunable), second


class _TowerUnits:
    """One tower's gates, sorted once."""

    def __init__(self, name: str, gates: TowerGates) -> None:
        units = gates.units
        if min(units.heads) < 1 or min(units.neurons) < 1:
            raise InheritanceError(
                f"{name} tower: a layer has lost all its heads or neurons in an earlier stage; "
                "set uniform_shapes: true in the first stage, or in none"
            )
        self._gates, self._units = gates, units
        self.head_counts = range(1, min(*units.heads, units.width // units.head_width) + 1)
        self._hidden = _sums([gates.hidden])
        self._heads = _sums(gates.heads_by_layer())
        self._neurons = _sums(gates.neurons_by_layer())

    def choice(self, heads: int, size: int) -> _Choice:
        """Return the tower of ``heads`` a layer that comes nearest to ``size`` parameters."""
        bare, one = self._shape(heads, 0), self._shape(heads, 1)
        fitting = round((size - bare.prunable) / (one.prunable - bare.prunable))
        neurons = max(1, min(fitting, *self._units.neurons))
        units = self._shape(heads, neurons)
        own, width = self._units, units.width
        head = 4 * own.head_width * (own.width + 1) / own.width
        inner = self._heads[heads - 1] * head + 2 * self._neurons[neurons - 1]
        stretch = neurons / width - sum(own.neurons) / len(own.neurons) / own.width
        return _Choice(units, self._hidden[width - 1] * inner, abs(stretch))

    def masks(self, units: TowerUnits) -> TowerMasks:
        """Return the masks that leave ``units``, the strongest of each kind."""
        gates = self._gates
        return TowerMasks(
            keep_strongest(gates.hidden, units.width),
            tuple(keep_strongest(a, units.heads[0]) for a in gates.heads_by_layer()),
            tuple(keep_strongest(a, units.neurons[0]) for a in gates.neurons_by_layer()),
        )

    def _shape(self, heads: int, neurons: int) -> TowerUnits:
        own, layers = self._units, len(self._units.heads)
        width = heads * own.head_width
        return TowerUnits(
            width, own.head_width, (heads,) * layers, (neurons,) * layers, own.positions
        )


@torch.no_grad()
def _sums(log_alphas: Sequence[Tensor]) -> list[float]:
    """Return, for n = 1, 2 …, how many of the n strongest units of every layer should survive."""
    shortest = min(len(a) for a in log_alphas)
    ordered = [survival(a.double()).sort(descending=True)[0][:shortest] for a in log_alphas]
    sums: list[float] = torch.stack(ordered).sum(dim=0).cumsum(dim=0).tolist()
    return sums
