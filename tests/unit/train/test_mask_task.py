"""Gates in the task: their groups, their price, and the last shift before a prune."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import Batch
from tinyclip_edge.inheritance.gates import ClipGates
from tinyclip_edge.models.pruned import clip_units
from tinyclip_edge.train.optimizer import make_optimizer
from tinyclip_edge.train.schedule import MaskSteps
from tinyclip_edge.train.stages.student import dense_copy
from tinyclip_edge.train.tasks.distill_task import TaskContext
from tinyclip_edge.train.tasks.encoders import pixel_codec
from tinyclip_edge.train.tasks.mask_task import MaskedTask, MaskTarget
from tinyclip_edge.train.tasks.teacher import Teacher

CPU = torch.device("cpu")
CAPTIONS = ("cat", "a dog", "the red square", "blue circle", "a photo of the bicycle", "red dog")


@pytest.fixture
def make(toy_teacher):
    def masked_task(steps_done=0):
        config = RunConfig.model_validate(
            {
                "teacher": {"model": "t"},
                "data": {"train": "x.tar"},
                "student": {"keep": 0.5},
                "inherit": {"method": "masks"},
                "masks": {"lr": 0.1},
            }
        )
        student, codec = dense_copy(toy_teacher), pixel_codec(toy_teacher)
        gates, steps = ClipGates(clip_units(student)), MaskSteps(10, 20, 4, 0.1)
        target = MaskTarget(gates, 0.5, steps, config.masks, steps_done=steps_done)
        teacher = Teacher(toy_teacher, codec, device=CPU)
        return MaskedTask(student, TaskContext(teacher, codec, config.loss, CPU), target)

    return masked_task


@pytest.fixture
def task(make):
    return make()


def set_all(task, value):
    with torch.no_grad():
        for log_alpha in task.gates.parameters():
            log_alpha.fill_(value)


def test_the_price_is_that_of_the_paper(make):
    task = make(steps_done=4)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)
    batch = Batch(tuple("abcdef"), pixels, CAPTIONS, np.arange(6), np.arange(6))
    set_all(task, 1.0)
    values = task.terms(batch).values()
    off = 1 / (1 + math.exp(-(2 / 3 * math.log(1 / 11) - 1.0)))
    units = 7 * (4 * 128**2 + 4 * 128 + 8 * 128**2)  # with an output bias a head, a channel
    parameters = 7 * (12 * 128**2 + 9 * 128)
    sparsity = 1 - (1 - off) ** 2 * units / parameters
    gap = 0.5 * 4 / 10 - sparsity
    assert values["sparsity"] == pytest.approx(sparsity, rel=1e-5)
    assert values["sparsity_target"] == pytest.approx(0.2)
    assert values["sparsity_price"] == pytest.approx(10 * max(gap, 0) + 10 * max(gap, 0) ** 2)
    assert values["loss"] == pytest.approx(values["affinity"] + values["sparsity_price"], rel=1e-6)


def test_multipliers_rise_and_gates_have_a_rate_of_their_own(task):
    gates, prices = task.groups(RunConfig.model_fields["optim"].default_factory())
    assert (gates["lr"], gates["weight_decay"], gates["betas"][0]) == (0.1, 0.0, 0.0)
    assert (prices["lr"], prices["maximize"]) == (0.02, True)
    assert gates["constant_lr"] and prices["constant_lr"]
    trained = {id(p) for p in task.clipped()}
    assert not trained & {id(p) for p in (*gates["params"], *prices["params"])}


def test_gates_of_many_neurons_move_as_fast_as_those_of_few_heads(task):
    optim = RunConfig.model_validate({
        "teacher": {"model": "t"}, "data": {"train": "x.tar"}, "student": {"model": "s"},
    }).optim  # fmt: skip
    optimizer = make_optimizer(task.encoder, optim, task.groups(optim))
    before = {name: p.detach().clone() for name, p in task.gates.named_parameters()}
    for name, p in task.gates.named_parameters():  # 3.5e-7: a neuron of ViT-B/32, measured
        p.grad = torch.full_like(p, 3.5e-7 if name.endswith("neurons") else 1e-2)
    optimizer.step()
    for name, p in task.gates.named_parameters():
        assert torch.allclose(before[name] - p, torch.tensor(0.1), rtol=0.05), name


def test_gates_that_are_near_are_shifted_onto_the_target(task):
    with torch.no_grad():
        for seed, log_alpha in enumerate(task.gates.parameters()):
            generator = torch.Generator().manual_seed(seed)
            log_alpha.copy_(1.5 * torch.randn(log_alpha.shape, generator=generator))
    order = task.gates.image.hidden.detach().argsort()
    before = task.kept_share()
    assert abs(before - 0.5) > 0.01
    assert task.settle(0.01)
    assert abs(task.kept_share() - 0.5) <= 0.01
    assert 0 < abs(task.shift) <= 1.0  # ten steps of 0.1
    assert torch.equal(task.gates.image.hidden.detach().argsort(), order)


def test_gates_that_have_learnt_nothing_are_not_forced(task):
    set_all(task, 4.605)
    assert not task.settle(0.01)
    assert task.kept_share() == 1.0
    assert all(a.eq(4.605).all() for a in task.gates.parameters())


def test_the_picture_counts_every_gate(task):
    set_all(task, -4.0)
    picture = task.gate_summary()
    assert sum(picture["image"]["log_alpha"]) == 128 + 4 * 2 + 4 * 512
    assert picture["image"]["log_alpha"][1] == 128 + 4 * 2 + 4 * 512  # second of 20 bins
    assert picture["kept"] < 0.02
