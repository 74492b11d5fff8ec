"""Masks under which all layers of a tower have equal sizes, so that an ordinary CLIP remains.

An ordinary tower with k heads is k head widths wide in each layer. Among the head counts and
feed-forward widths that give the size implied by the gates, the search picks those whose units
are most likely to survive.
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

_DIGITS = 6  # of the mean survival; closer values tie, and the tower's own proportions decide


@dataclass(frozen=True, slots=True)
class _TowerOption:
    units: TowerUnits
    score: float  # expected parameters of the selected units
    stretch: float  # difference in neurons per channel from the original tower


def equal_masks(gates: ClipGates, *, nearest: bool = False) -> ClipMasks:
    """Return masks with equal layers and the size of ``gates.binarised()``, within one point.

    Raises InheritanceError when no ordinary shape has that size, unless ``nearest`` is set.
    """
    target = PrunePlan.of(gates.units, gates.binarised()).after
    image, text = (_TowerUnits(name, getattr(gates, name)) for name in ("image", "text"))
    candidates = [
        (_size_error(pair, target.prunable, gates.units.prunable), pair)
        for pair in _pairs(image, text, target.image.prunable, target.prunable)
    ]
    smallest_error = min(size_error for size_error, _ in candidates)
    if smallest_error > TOLERANCE / 2 and not nearest:
        raise InheritanceError(
            f"no CLIP with equal layers has the size of the masks ({target.prunable:,} "
            f"parameters): the nearest is {smallest_error:.1%} off; set uniform_shapes: false"
        )
    tolerance = max(smallest_error, TOLERANCE / 2)
    best_pair = max((pair for size_error, pair in candidates if size_error <= tolerance), key=_rank)
    return ClipMasks(image.masks(best_pair[0].units), text.masks(best_pair[1].units))


def _size_error(pair: tuple[_TowerOption, _TowerOption], target: int, prunable: int) -> float:
    return abs(sum(choice.units.prunable for choice in pair) - target) / prunable


def _rank(pair: tuple[_TowerOption, _TowerOption]) -> tuple[float, float]:
    """Return the mean survival of the selected parameters, and minus the change in proportions."""
    size = sum(choice.units.prunable for choice in pair)
    mean_survival = round(sum(choice.score for choice in pair) / size, _DIGITS)
    return mean_survival, -sum(choice.stretch for choice in pair)


def _pairs(
    image: _TowerUnits, text: _TowerUnits, image_size: int, size: int
) -> Iterator[tuple[_TowerOption, _TowerOption]]:
    """Try all head counts; each tower makes up for the size that the other cannot reach."""
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
                f"{name} tower: an earlier stage removed all heads or neurons of a layer; "
                "set uniform_shapes: true in the first stage, or in none"
            )
        self._gates, self._units = gates, units
        self.head_counts = range(1, min(*units.heads, units.width // units.head_width) + 1)
        self._hidden = _sums([gates.hidden])
        self._heads = _sums(gates.heads_by_layer())
        self._neurons = _sums(gates.neurons_by_layer())

    def choice(self, heads: int, size: int) -> _TowerOption:
        """Return the tower with ``heads`` per layer that is nearest to ``size`` parameters."""
        without_neurons, with_one_neuron = self._shape(heads, 0), self._shape(heads, 1)
        nearest_count = round(
            (size - without_neurons.prunable)
            / (with_one_neuron.prunable - without_neurons.prunable)
        )
        neurons = max(1, min(nearest_count, *self._units.neurons))
        units = self._shape(heads, neurons)
        original, width = self._units, units.width
        head_weight = 4 * original.head_width * (original.width + 1) / original.width
        inner_sum = self._heads[heads - 1] * head_weight + 2 * self._neurons[neurons - 1]
        stretch = neurons / width - sum(original.neurons) / len(original.neurons) / original.width
        return _TowerOption(units, self._hidden[width - 1] * inner_sum, abs(stretch))

    def masks(self, units: TowerUnits) -> TowerMasks:
        """Return masks that keep the strongest units of each kind, as many as in ``units``."""
        gates = self._gates
        return TowerMasks(
            keep_strongest(gates.hidden, units.width),
            tuple(keep_strongest(a, units.heads[0]) for a in gates.heads_by_layer()),
            tuple(keep_strongest(a, units.neurons[0]) for a in gates.neurons_by_layer()),
        )

    def _shape(self, heads: int, neurons: int) -> TowerUnits:
        original, layers = self._units, len(self._units.heads)
        width = heads * original.head_width
        return TowerUnits(
            width, original.head_width, (heads,) * layers, (neurons,) * layers, original.positions
        )


@torch.no_grad()
def _sums(log_alphas: Sequence[Tensor]) -> list[float]:
    """Return, for n = 1, 2 …, the expected survivors among the n strongest units of each layer."""
    length = min(len(a) for a in log_alphas)
    ordered = [survival(a.double()).sort(descending=True)[0][:length] for a in log_alphas]
    sums: list[float] = torch.stack(ordered).sum(dim=0).cumsum(dim=0).tolist()
    return sums
