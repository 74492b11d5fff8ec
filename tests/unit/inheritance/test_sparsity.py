from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.sparsity import Lagrangian, check_reachable, sparsity_target
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits

TOWER = TowerUnits(width=128, head_width=64, heads=(2, 2), neurons=(512, 512), positions=17)
TOY = ClipUnits(TOWER, TOWER, embed_dim=64, patch=8)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.25), (250, 0.3125), (1000, 0.5), (5000, 0.5)])
def test_target_rises_linearly_and_stays(step, expected):
    assert sparsity_target(step, start=0.25, target=0.5, warmup=1000) == pytest.approx(expected)


def test_target_without_warmup_is_there_at_once():
    assert sparsity_target(0, start=0.0, target=0.5, warmup=0) == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_lagrangian_and_its_gradients(seed):
    rng = np.random.default_rng(seed)
    one, two, s, t = rng.uniform([0, 0, 0, 0], [30, 30, 1, 1])
    price = Lagrangian()
    assert (price.lambda_1.item(), price.lambda_2.item()) == (10, 10)
    with torch.no_grad():
        price.lambda_1.fill_(one)
        price.lambda_2.fill_(two)
    sparsity = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    loss = price(sparsity, t)
    loss.backward()
    gap = max(t - s, 0.0)
    assert loss.item() == pytest.approx(one * gap + two * gap**2, rel=1e-6, abs=1e-9)
    assert float(price.lambda_1.grad) == pytest.approx(gap, rel=1e-6, abs=1e-9)
    assert float(price.lambda_2.grad) == pytest.approx(gap**2, rel=1e-6, abs=1e-9)
    assert float(sparsity.grad) == pytest.approx(-(one + 2 * two * gap) * (gap > 0), rel=1e-6)


def test_multipliers_rise_while_the_target_is_missed():
    price = Lagrangian()
    optimizer = torch.optim.AdamW(price.parameters(), lr=0.02, weight_decay=0, maximize=True)
    price(torch.tensor(0.1), 0.5).backward()
    optimizer.step()
    # Adam's first step is the rate itself.
    assert price.lambda_1.item() == pytest.approx(10.02, abs=1e-5)
    assert price.lambda_2.item() == pytest.approx(10.02, abs=1e-5)


def test_what_no_mask_counts_must_be_less_than_the_target():
    # By hand, per tower of width 128: image 3·8² + 1 + 17 + 4 + 64 + 2·4 = 286, text 91 a channel.
    fixed = 128 * (286 + 17 + 2 + 64 + 8)
    prunable = 2 * 2 * (4 * 128**2 + 4 * 128 + 2 * 128 * 512 + 128 + 512)
    share = fixed / (fixed + prunable)
    check_reachable(TOY, share + 1e-3)
    with pytest.raises(InheritanceError, match=rf"keep 0\.05 is out of reach.*{share:.1%}"):
        check_reachable(TOY, 0.05)


def test_uniform_shapes_keep_a_head_a_layer():
    # One head of 64 and one neuron: 4·64² + 4·64 + 2·64 + 64 + 1 of 197,760 a layer.
    least = (4 * 64**2 + 4 * 64 + 2 * 64 + 64 + 1) / (
        4 * 128**2 + 4 * 128 + 2 * 128 * 512 + 128 + 512
    )
    tight = ClipUnits(TOWER, TOWER, embed_dim=1, patch=1)
    with pytest.raises(InheritanceError, match=rf"uniform_shapes: one head.*{least:.1%}"):
        check_reachable(tight, least - 0.02, uniform_shapes=True)
    check_reachable(tight, least - 0.02)
    check_reachable(tight, least, uniform_shapes=True)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.2, float("nan")])
def test_keep_is_a_share(keep):
    with pytest.raises(InheritanceError, match="above 0, at most 1"):
        check_reachable(TOY, keep)
