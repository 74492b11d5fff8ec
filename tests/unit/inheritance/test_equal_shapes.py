from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.equal import equal_masks
from tinyclip_edge.inheritance.gates import ClipGates
from tinyclip_edge.inheritance.prune import PrunePlan
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits

BASE = ClipUnits(
    TowerUnits(768, 64, (12,) * 12, (3072,) * 12, 50),
    TowerUnits(512, 64, (8,) * 12, (2048,) * 12, 77),
    embed_dim=512,
    patch=32,
)
SMALL = ClipUnits(
    TowerUnits(16, 8, (2, 2), (64, 64), 5), TowerUnits(16, 8, (2, 2), (64, 64), 5), 8, 8
)


def noisy(units, seed, mean, spread=2.5):
    gates = ClipGates(units)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.copy_(mean + spread * torch.randn(log_alpha.shape, generator=rng))
    gates.clamp_()
    return gates


@pytest.mark.parametrize("mean", [3.0, 0.5, -1.0])
@pytest.mark.parametrize("seed", range(2))
def test_size_of_the_gates_within_half_a_point(seed, mean):
    gates = noisy(BASE, seed, mean)
    free = PrunePlan.of(BASE, gates.binarised()).after.prunable
    masks = equal_masks(gates)
    after = PrunePlan.of(BASE, masks).after
    assert after.image.plain
    assert after.text.plain
    assert abs(after.prunable - free) / BASE.prunable <= 0.005


def test_the_strongest_of_each_layer_stay():
    gates = noisy(BASE, 3, 0.5)
    masks = equal_masks(gates)
    for log_alphas, units in (
        ((gates.image.hidden,), (masks.image.hidden,)),
        (gates.image.heads_by_layer(), masks.image.heads),
        (gates.text.neurons_by_layer(), masks.text.neurons),
    ):
        for log_alpha, mask in zip(log_alphas, units, strict=True):
            a, z = log_alpha.detach().numpy(), mask.numpy()
            assert a[z > 0].min() >= a[z == 0].max()
            # 1 / (1 + e^(-0.8 a / (2/3)))
            np.testing.assert_allclose(z[z > 0], 1 / (1 + np.exp(-1.2 * a[z > 0])), atol=1e-6)


def test_gates_decide_between_narrow_and_short():
    """One tower where half the channels and heads are unwanted, one where the neurons are."""
    gates = ClipGates(BASE)
    gates.clamp_()
    with torch.no_grad():
        gates.image.hidden[::2] = -4.605
        for heads in gates.image.heads_by_layer():
            heads[::2] = -4.605
        for neurons in gates.text.neurons_by_layer():
            neurons[::2] = -4.605
    after = PrunePlan.of(BASE, equal_masks(gates)).after
    assert after.image.heads[0] in (6, 7)
    assert after.image.neurons[0] > 2700
    assert after.text.heads[0] == 8
    # 1072 are expected; what the coarser steps of the image tower leave over comes on top
    assert 1072 <= after.text.neurons[0] < 1300


def test_a_shape_that_no_ordinary_tower_has_is_refused():
    gates = ClipGates(SMALL)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.fill_(-4.605)
    with pytest.raises(InheritanceError, match="no CLIP with equal layers has the size"):
        equal_masks(gates)
    # Not even one head and one neuron a layer is small enough: that is the nearest shape.
    after = PrunePlan.of(SMALL, equal_masks(gates, nearest=True)).after
    for tower in (after.image, after.text):
        assert (set(tower.heads), set(tower.neurons)) == ({1}, {1})
