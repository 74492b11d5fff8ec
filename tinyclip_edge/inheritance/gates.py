"""Hard-concrete gates over hidden channels, heads and neurons of both towers.

One log-alpha a unit. Shapes: H hidden channels; heads and neurons of all layers lie end to end,
for pruned towers have layers of different size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits

START = 10.0
CLAMP = 4.605  # of log-alpha: P[z > 0] between 0.047 and 0.998
TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1  # the stretch that makes exact zeros and ones likely
EPS = 1e-6
SOFTNESS = 0.8


class TowerMasks(NamedTuple):
    """Factors of one tower's units, 0 for a unit that is off."""

    hidden: Tensor  # [H]
    heads: tuple[Tensor, ...]  # [A] a layer
    neurons: tuple[Tensor, ...]  # [I] a layer


class ClipMasks(NamedTuple):
    """Factors of both towers' units."""

    image: TowerMasks
    text: TowerMasks


def hard_concrete(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Return gates in [0, 1] for uniform noise in (0, 1), differentiable in ``log_alpha``."""
    logit = uniform.log() - (-uniform).log1p()
    stretched = torch.sigmoid((logit + log_alpha) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0.0, 1.0)


def survival(log_alpha: Tensor) -> Tensor:
    """Return P[z > 0] of each gate."""
    off = torch.sigmoid(TEMPERATURE * math.log(-LOW / HIGH) - log_alpha)
    return 1 - off.clamp(EPS, 1 - EPS)


def soft_gates(log_alpha: Tensor) -> Tensor:
    """Return the value a gate has outside training while its unit is on."""
    return torch.sigmoid(SOFTNESS * log_alpha / TEMPERATURE)


@torch.no_grad()
def binarise(log_alpha: Tensor, *, at_least: int = 0) -> Tensor:
    """Return soft gates with the smallest set to zero, as many as are expected to be off.

    A gate at the upper clamp still has a 0.2 % chance to be off; over 768 of them that would cost
    two units although nothing was learnt, so those gates do not count and never go. Of equal
    gates the later ones go first. ``at_least`` units stay on.
    """
    # double: 3072 neurons a layer add up, and a half must not depend on the order of the sum
    chance = (1 - survival(log_alpha.double())) * (log_alpha < CLAMP)
    off = round(float(chance.sum()))
    return keep_strongest(log_alpha, max(len(log_alpha) - off, at_least))


@torch.no_grad()
def keep_strongest(log_alpha: Tensor, count: int) -> Tensor:
    """Return soft gates with all but the ``count`` largest set to zero, of equals the first."""
    gates = soft_gates(log_alpha)
    gates[log_alpha.argsort(descending=True, stable=True)[count:]] = 0.0
    return gates


class TowerGates(nn.Module):
    """Log-alphas of one tower: ``hidden [H]``, ``heads`` and ``neurons`` of all layers in a row."""

    def __init__(self, units: TowerUnits) -> None:
        super().__init__()
        self.units = units
        self.hidden = nn.Parameter(torch.full((units.width,), START))
        self.heads = nn.Parameter(torch.full((sum(units.heads),), START))
        self.neurons = nn.Parameter(torch.full((sum(units.neurons),), START))

    def heads_by_layer(self) -> tuple[Tensor, ...]:
        """Return the heads' log-alphas, one ``[A]`` a layer."""
        return torch.split(self.heads, list(self.units.heads))

    def neurons_by_layer(self) -> tuple[Tensor, ...]:
        """Return the neurons' log-alphas, one ``[I]`` a layer."""
        return torch.split(self.neurons, list(self.units.neurons))

    def sample(self, generator: torch.Generator | None = None) -> TowerMasks:
        """Draw every gate once; the generator lives on the gates' device."""
        hidden, heads, neurons = (
            hard_concrete(
                a,
                torch.empty_like(a).uniform_(EPS, 1 - EPS, generator=generator),
            )
            for a in (self.hidden, self.heads, self.neurons)
        )
        return TowerMasks(
            hidden,
            torch.split(heads, list(self.units.heads)),
            torch.split(neurons, list(self.units.neurons)),
        )

    def binarised(self) -> TowerMasks:
        """Return what a prune would leave, layer by layer; a tower keeps one channel at least."""
        return TowerMasks(
            binarise(self.hidden, at_least=1),
            tuple(binarise(a) for a in self.heads_by_layer()),
            tuple(binarise(a) for a in self.neurons_by_layer()),
        )

    def expected_parameters(self) -> Tensor:
        """Return the expected size of what the gates control, a float64 scalar."""
        hidden, heads, neurons = (
            survival(a.double()).sum() for a in (self.hidden, self.heads, self.neurons)
        )
        units = self.units
        head = 4 * units.head_width * (units.width + 1) / units.width  # a head, a channel
        return hidden * (heads * head + 2 * neurons)


class ClipGates(nn.Module):
    """Gates of both towers, open at first; their sparsity is that of both together.

    ``prunable`` is the count that sparsity refers to: give the teacher's (or the first student's)
    in later stages, so that targets of all stages are shares of one whole.
    """

    def __init__(self, units: ClipUnits, *, prunable: int | None = None) -> None:
        super().__init__()
        self.units = units
        self.image = TowerGates(units.image)
        self.text = TowerGates(units.text)
        self.prunable = prunable or units.prunable

    def sample(self, generator: torch.Generator | None = None) -> ClipMasks:
        """Draw the masks of one training step."""
        return ClipMasks(self.image.sample(generator), self.text.sample(generator))

    def binarised(self) -> ClipMasks:
        """Return the masks of evaluation and of a prune: weakest units off, the others soft."""
        return ClipMasks(self.image.binarised(), self.text.binarised())

    def expected_parameters(self) -> Tensor:
        """Return the expected size of what the gates control, a float64 scalar."""
        return self.image.expected_parameters() + self.text.expected_parameters()

    def sparsity(self) -> Tensor:
        """Return 1 - expected / prunable over both towers, a float32 scalar."""
        return (1 - self.expected_parameters() / self.prunable).float()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep every log-alpha where its gate can still move; call after each step."""
        for log_alpha in self.parameters():
            log_alpha.clamp_(-CLAMP, CLAMP)
