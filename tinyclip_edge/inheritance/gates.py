"""Hard-concrete gates over hidden channels, heads and neurons of both towers.

One log-alpha per unit. Shapes: H hidden channels; heads and neurons of all layers are concatenated,
since layers of pruned towers differ in size.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tinyclip_edge.inheritance.tower_kind import TowerName
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits

START = 10.0
CLAMP = 4.605  # of log-alpha: P[z > 0] between 0.047 and 0.998
TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1  # stretching beyond [0, 1] makes exact zeros and ones possible
EPS = 1e-6
SOFTNESS = 0.8


class TowerMasks(NamedTuple):
    """Factors of one tower's units, 0 for a unit that is off."""

    hidden: Tensor  # [H]
    heads: tuple[Tensor, ...]  # [A] per layer
    neurons: tuple[Tensor, ...]  # [I] per layer


class ClipMasks(NamedTuple):
    """Factors of both towers' units."""

    image: TowerMasks
    text: TowerMasks


def hard_concrete(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Return gates in [0, 1] for uniform noise in (0, 1), differentiable in ``log_alpha``."""
    noise_logit = uniform.log() - (-uniform).log1p()
    stretched = torch.sigmoid((noise_logit + log_alpha) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0.0, 1.0)


def survival(log_alpha: Tensor) -> Tensor:
    """Return P[z > 0] of each gate."""
    off = torch.sigmoid(TEMPERATURE * math.log(-LOW / HIGH) - log_alpha)
    return 1 - off.clamp(EPS, 1 - EPS)


def soft_gates(log_alpha: Tensor) -> Tensor:
    """Return the value of an open gate outside training."""
    return torch.sigmoid(SOFTNESS * log_alpha / TEMPERATURE)


@torch.no_grad()
def binarise(log_alpha: Tensor, *, at_least: int = 0) -> Tensor:
    """Return soft gates with the smallest set to zero, as many as are expected to be off.

    Gates at the upper clamp are not counted and always stay on: each has a 0.2 % chance of being
    off, which over 768 untrained gates would remove two units. Among equal gates the later ones are
    set to zero first. At least ``at_least`` units stay on.
    """
    # In float64: over 3072 neurons, rounding at .5 must not depend on the order of the sum.
    off_probability = (1 - survival(log_alpha.double())) * (log_alpha < CLAMP)
    off_count = round(float(off_probability.sum()))
    return keep_strongest(log_alpha, max(len(log_alpha) - off_count, at_least))


@torch.no_grad()
def keep_strongest(log_alpha: Tensor, count: int) -> Tensor:
    """Return soft gates, all but the ``count`` largest set to zero; ties go to the first."""
    gates = soft_gates(log_alpha)
    gates[log_alpha.argsort(descending=True, stable=True)[count:]] = 0.0
    return gates


class TowerGates(nn.Module):
    """Log-alphas of one tower: ``hidden [H]``, ``heads`` and ``neurons`` of all layers in a row.

    A tower in stages has them only for its neurons, which in a ResNet are the inner channels.
    """

    def __init__(self, units: TowerUnits) -> None:
        super().__init__()
        self.units = units
        self.hidden = nn.Parameter(torch.full((0 if units.stages else units.width,), START))
        self.heads = nn.Parameter(torch.full((sum(units.heads),), START))
        self.neurons = nn.Parameter(torch.full((sum(units.neurons),), START))

    def heads_by_layer(self) -> tuple[Tensor, ...]:
        """Return the heads' log-alphas, one ``[A]`` per layer."""
        return torch.split(self.heads, list(self.units.heads))

    def neurons_by_layer(self) -> tuple[Tensor, ...]:
        """Return the neurons' log-alphas, one ``[I]`` per layer."""
        return torch.split(self.neurons, list(self.units.neurons))

    def sample(self, generator: torch.Generator | None = None) -> TowerMasks:
        """Sample every gate once; the generator must be on the gates' device."""
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
        """Return the masks for pruning, layer by layer; at least one channel stays on."""
        return TowerMasks(
            binarise(self.hidden, at_least=1),
            tuple(binarise(a) for a in self.heads_by_layer()),
            tuple(binarise(a) for a in self.neurons_by_layer()),
        )

    def opened(self) -> TowerMasks:
        """Return masks that leave every unit unchanged."""
        hidden, heads, neurons = (
            torch.ones_like(a) for a in (self.hidden, self.heads, self.neurons)
        )
        return TowerMasks(
            hidden,
            torch.split(heads, list(self.units.heads)),
            torch.split(neurons, list(self.units.neurons)),
        )

    def expected_parameters(self) -> Tensor:
        """Return the expected number of prunable parameters, a float64 scalar."""
        units = self.units
        if units.stages:
            survivors = torch.split(survival(self.neurons.double()), list(units.neurons))
            return units.staged_parameters([layer.sum() for layer in survivors])
        hidden, heads, neurons = (
            survival(a.double()).sum() for a in (self.hidden, self.heads, self.neurons)
        )
        bias = int(units.biased)
        head = 4 * units.head_width * (units.width + bias) / units.width  # per head and channel
        return hidden * (heads * head + units.matrices * neurons)


class ClipGates(nn.Module):
    """Gates of both towers, initially open; sparsity counts both towers together.

    ``prunable`` is the parameter count that sparsity refers to. In later stages, pass that of the
    teacher (or the first student), so that the targets of all stages refer to the same total.
    Towers that stay ``whole`` are counted, but lose no unit.
    """

    def __init__(
        self, units: ClipUnits, *, prunable: int | None = None, whole: Collection[TowerName] = ()
    ) -> None:
        super().__init__()
        self.units = units
        self.image = TowerGates(units.image)
        self.text = TowerGates(units.text)
        self.prunable = prunable or units.prunable
        self.whole = tuple(whole)
        for tower in self.whole:
            self.get_submodule(tower).requires_grad_(False)

    def sample(self, generator: torch.Generator | None = None) -> ClipMasks:
        """Sample the masks of one training step."""
        return ClipMasks(
            self.image.opened() if "image" in self.whole else self.image.sample(generator),
            self.text.opened() if "text" in self.whole else self.text.sample(generator),
        )

    def binarised(self) -> ClipMasks:
        """Return the masks for evaluation and pruning: weakest units off, the others soft."""
        return ClipMasks(
            self.image.opened() if "image" in self.whole else self.image.binarised(),
            self.text.opened() if "text" in self.whole else self.text.binarised(),
        )

    def expected_parameters(self) -> Tensor:
        """Return the expected number of prunable parameters, a float64 scalar."""
        image, text = self.image.expected_parameters(), self.text.expected_parameters()
        if "image" in self.whole:
            image = torch.full_like(image, self.units.image.prunable)
        if "text" in self.whole:
            text = torch.full_like(text, self.units.text.prunable)
        return image + text

    def sparsity(self) -> Tensor:
        """Return 1 - expected / prunable over both towers, a float32 scalar."""
        return (1 - self.expected_parameters() / self.prunable).float()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Clamp every log-alpha to the range in which its gate can change; call after each step."""
        for log_alpha in self.parameters():
            log_alpha.clamp_(-CLAMP, CLAMP)
