"""Gates against the formulas of the TinyCLIP masks, written out in numpy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyclip_edge.inheritance.gates import ClipGates, TowerGates, binarise, hard_concrete, survival
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits

BETA = 2 / 3
CLAMP = 4.605
IMAGE = TowerUnits(768, 64, (12,) * 12, (3072,) * 12, 50)
TEXT = TowerUnits(512, 64, (8,) * 12, (2048,) * 12, 77)
VIT_B_32 = ClipUnits(IMAGE, TEXT, 512, 32)
TINY = TowerUnits(width=6, head_width=2, heads=(3, 3), neurons=(8, 8), positions=5)
RAGGED = TowerUnits(width=5, head_width=2, heads=(3, 0, 1), neurons=(4, 7, 0), positions=5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def oracle_survival(a):
    return 1 - np.clip(sigmoid(BETA * np.log(1 / 11) - a), 1e-6, 1 - 1e-6)


def random_gates(units, seed, spread=4.0):
    gates = TowerGates(units)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for a in gates.parameters():
            a.copy_((spread * torch.randn(a.shape, generator=rng)).clamp(-CLAMP, CLAMP))
    return gates


@pytest.mark.parametrize("seed", range(5))
def test_sample_is_the_stretched_concrete_of_its_noise(seed):
    rng = np.random.default_rng(seed)
    u = rng.uniform(1e-6, 1 - 1e-6, 4000).astype(np.float32)
    a = rng.uniform(-CLAMP, CLAMP, 4000).astype(np.float32)
    u64, a64 = u.astype(np.float64), a.astype(np.float64)
    z = sigmoid((np.log(u64) - np.log(1 - u64) + a64) / BETA) * 1.2 - 0.1
    ours = hard_concrete(torch.from_numpy(a), torch.from_numpy(u))
    np.testing.assert_allclose(ours.numpy(), np.clip(z, 0, 1), atol=1e-6)


def test_survival_probability_and_its_share_in_samples():
    a = torch.linspace(-CLAMP, 10, 50)
    np.testing.assert_allclose(survival(a).numpy(), oracle_survival(a.double().numpy()), atol=1e-6)
    # the probability is that of a sample above zero: 20000 draws, five standard errors
    gates = TowerGates(TowerUnits(20000, 4, (1,), (1,), 2))
    with torch.no_grad():
        gates.hidden.fill_(-1.0)
    share = float((gates.sample(torch.Generator().manual_seed(0)).hidden > 0).double().mean())
    expected = float(oracle_survival(-1.0))
    assert share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 20000) ** 0.5)


def test_gates_start_open_and_are_clamped():
    gates = ClipGates(VIT_B_32)
    assert all((a == 10).all() for a in gates.parameters())
    gates.clamp_()
    assert all((a == np.float32(CLAMP)).all() for a in gates.parameters())
    with torch.no_grad():
        gates.image.heads.fill_(-7)
    gates.clamp_()
    assert (gates.image.heads == np.float32(-CLAMP)).all()


@pytest.mark.parametrize("units", [TINY, RAGGED])
@pytest.mark.parametrize("seed", range(3))
def test_soft_value_and_number_of_zeros(units, seed):
    gates = random_gates(units, seed)
    masks = gates.binarised()
    columns = [(gates.hidden, masks.hidden, 1)]
    columns += [(a, z, 0) for a, z in zip(gates.heads_by_layer(), masks.heads, strict=True)]
    columns += [(a, z, 0) for a, z in zip(gates.neurons_by_layer(), masks.neurons, strict=True)]
    for log_alpha, mask, least in columns:
        a, z = log_alpha.detach().double().numpy(), mask.numpy()
        free = a < np.float32(CLAMP)
        zeros = min(round(float((1 - oracle_survival(a))[free].sum())), max(len(a) - least, 0))
        assert (z == 0).sum() == zeros
        np.testing.assert_allclose(z[z > 0], sigmoid(0.8 * a / BETA)[z > 0], atol=1e-6)
        assert len(a) == 0 or zeros in (0, len(a)) or a[z == 0].max() <= a[z > 0].min()


def test_ties_lose_exactly_the_count_and_the_later_ones():
    a = torch.full((10,), -0.7)
    # P[z > 0] by hand: 1 - 1 / (1 + 11^(2/3) · e^-0.7) = 0.7106, so 2.9 of 10 are off
    z = binarise(a)
    assert (z == 0).tolist() == [False] * 7 + [True] * 3
    assert all(torch.equal(binarise(a), z) for _ in range(3))


@pytest.mark.parametrize("log_alpha", [10.0, CLAMP])
def test_nothing_learnt_loses_nothing(log_alpha):
    # 768 · 0.00202 = 1.55: the plain count would take two
    assert (binarise(torch.full((768,), log_alpha)) > 0).all()


def test_gates_at_the_upper_clamp_never_go_and_cost_no_others():
    a = torch.full((768,), CLAMP)
    a[5] = 4.6  # hardly moved: its own chance to be off is 0.002
    assert (binarise(a) > 0).all()
    a[:384] = -CLAMP  # each off with 0.9529
    z = binarise(a)
    assert (z[384:] > 0).all()
    assert int((z == 0).sum()) == 366


def test_a_tower_keeps_a_channel_and_a_layer_may_lose_everything():
    gates = TowerGates(TINY)
    with torch.no_grad():
        for a in gates.parameters():
            a.fill_(-CLAMP)
    masks = gates.binarised()
    assert int((masks.hidden > 0).sum()) == 1
    assert [int((z > 0).sum()) for z in masks.heads] == [0, 0]
    assert [int((z > 0).sum()) for z in masks.neurons] == [0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_expected_size_and_sparsity_over_both_towers(seed):
    gates = ClipGates(VIT_B_32)
    expected, prunable = 0.0, 0
    rng = np.random.default_rng(seed)
    for tower, shape in ((gates.image, IMAGE), (gates.text, TEXT)):
        h, length, heads, i = shape.width, len(shape.heads), shape.heads[0], shape.neurons[0]
        sizes = (h, (length, heads), (length, i))
        hidden, head, neuron = (
            rng.uniform(-CLAMP, CLAMP, size).astype(np.float32) for size in sizes
        )
        with torch.no_grad():
            tower.hidden.copy_(torch.from_numpy(hidden))
            tower.heads.copy_(torch.from_numpy(head).flatten())
            tower.neurons.copy_(torch.from_numpy(neuron).flatten())
        p = [oracle_survival(a.astype(np.float64)) for a in (hidden, head, neuron)]
        per_head = (4 * h * h + 4 * h) / heads
        expected += np.outer(p[0], p[1].ravel()).sum() * per_head / h
        expected += 2 * np.outer(p[0], p[2].ravel()).sum()
        prunable += length * (4 * h * h + 4 * h + 2 * h * i + h + i)
    assert gates.prunable == prunable
    assert float(gates.expected_parameters().detach()) == pytest.approx(expected, rel=1e-9)
    assert float(gates.sparsity().detach()) == pytest.approx(1 - expected / prunable, abs=1e-6)
    # later stages measure against the whole: half of this shape is a quarter of one twice its size
    later = ClipGates(VIT_B_32, prunable=2 * prunable)
    later.load_state_dict(gates.state_dict())
    assert float(later.sparsity().detach()) == pytest.approx(1 - expected / prunable / 2, abs=1e-6)


def test_sparsity_pulls_every_gate_down():
    gates = ClipGates(ClipUnits(TINY, RAGGED, 4, 8))
    gates.clamp_()
    (-gates.sparsity()).backward()
    # descending -sparsity lowers log-alpha
    assert all((a.grad > 0).all() for a in gates.parameters() if len(a))


def test_samples_repeat_with_their_generator():
    gates = ClipGates(ClipUnits(TINY, RAGGED, 4, 8))
    gates.clamp_()
    one, two = (gates.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.image.hidden, two.image.hidden)
    assert [len(z) for z in one.text.heads] == [3, 0, 1]
    assert [len(z) for z in one.text.neurons] == [4, 7, 0]
