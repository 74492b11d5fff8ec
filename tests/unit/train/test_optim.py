"""Learning rate, weight decay and steps that are skipped."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tinyclip_edge.config import OptimConfig
from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.train.optimizer import OptimizerStep, lr_at, make_optimizer, trainable


def test_learning_rate_by_hand():
    config = OptimConfig(lr=1.0, steps=110, warmup=10, final_lr_ratio=0.2)
    assert lr_at(0, config) == pytest.approx(0.1)
    assert lr_at(9, config) == pytest.approx(1.0)
    assert lr_at(10, config) == pytest.approx(1.0)
    assert lr_at(60, config) == pytest.approx(0.6)  # half of the cosine: (1 + 0.2) / 2
    assert lr_at(35, config) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert lr_at(109, config) == pytest.approx(0.2, abs=1e-3)
    assert lr_at(0, OptimConfig(lr=1.0, steps=3, warmup=0)) == 1.0


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.logit_scale = nn.Parameter(torch.ones(1, 1))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)

    def forward(self, x):
        return self.norm(self.layer(x)) * self.logit_scale


def test_only_matrices_decay():
    model = Small()
    decay, keep = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert [id(p) for p in decay["params"]] == [id(model.layer.weight)]
    assert (decay["weight_decay"], keep["weight_decay"]) == (0.3, 0.0)
    assert len(keep["params"]) == 4
    assert model.frozen not in set(keep["params"])


def updater(model, **config):
    config = OptimConfig(**{"lr": 0.1, "steps": 100, "warmup": 0, **config})
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(make_optimizer(model, config))
    return OptimizerStep(accelerator, optimizer, trainable(model.parameters()), config)


def test_a_gradient_is_clipped_and_its_norm_reported():
    model, x = Small(), torch.randn(8, 4)
    loss = (model(x) ** 3).sum() * 100
    grads = torch.autograd.grad(loss, trainable(model.parameters()), retain_graph=True)
    expected = torch.stack([g.norm() for g in grads]).norm().item()
    assert updater(model).step(loss, 0) == pytest.approx(expected, rel=1e-5)


def poison(model, kind):
    clean = model(torch.randn(8, 4)).sum()
    if kind == "loss":
        return clean * math.nan
    # finite value, infinite gradient
    return clean + (model.layer.weight * 0).abs().sqrt().sum()


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_never_reaches_the_weights(kind):
    model = Small()
    up = updater(model)
    up.step(model(torch.randn(8, 4)).sum(), 0)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    moments = {k: v["exp_avg"].clone() for k, v in up.optimizer.state_dict()["state"].items()}
    assert up.step(poison(model, kind), 1) is None
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    after = up.optimizer.state_dict()["state"]
    assert all(torch.equal(v["exp_avg"], moments[k]) for k, v in after.items())
    assert (up.skipped, up.skipped_in_a_row) == (1, 1)
    assert up.step(model(torch.randn(8, 4)).sum(), 2) is not None
    assert (up.skipped, up.skipped_in_a_row) == (1, 0)
    assert all(p.grad is None for p in model.parameters())


def test_twenty_in_a_row_stop_the_run_and_name_the_cure():
    model = Small()
    up = updater(model)
    for number in range(19):
        up.step(poison(model, "loss"), number)
    with pytest.raises(TinyClipError, match=r"loss nan at step 20: 20 steps.*optim\.lr \(0\.1\)"):
        up.step(poison(model, "loss"), 19)
