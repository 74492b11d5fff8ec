"""Teachers weighed by sample, against sums in float64."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch

from tinyclip_edge.config import RunConfig, TeacherConfig
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.losses import FUSIONS, PairEmbeddings, TeacherPart, sigmoid_affinity_loss
from tinyclip_edge.losses.affinity import mixed_affinity_loss
from tinyclip_edge.losses.fusion import (
    ConfidenceFusion,
    LearnedFusion,
    SampleFusion,
    fused_probabilities,
    fused_targets,
)
from tinyclip_edge.losses.sigmoid import Affine

SHARES = (0.25, 0.75)
AVERAGES = ("logits", "probabilities")


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def logits_of(seed, rows=4, candidates=5):
    return 3 * np.random.default_rng(seed).normal(size=(rows, candidates))


def weights_by_hand(logits):
    """Shares over perplexities, [R, T]."""
    perplexities = []
    for each in logits:
        p = softmax(each)
        perplexities.append(np.exp(-(p * np.log(p)).sum(axis=1)))
    raw = np.stack([share / each for share, each in zip(SHARES, perplexities, strict=True)], axis=1)
    return raw / raw.sum(axis=1, keepdims=True)


def fused(logits, average, way=None, shares=SHARES):
    fusion = SampleFusion(way or ConfidenceFusion(), average)
    return fused_targets([torch.from_numpy(x) for x in logits], shares, fusion, "image")


@pytest.mark.parametrize("average", AVERAGES)
def test_confidence_weighs_by_the_inverse_of_perplexity(average):
    logits = [logits_of(0), logits_of(1)]
    weights = weights_by_hand(logits)
    found = fused(logits, average)
    if average == "logits":
        expected = softmax(weights[:, :1] * logits[0] + weights[:, 1:] * logits[1])
    else:
        expected = weights[:, :1] * softmax(logits[0]) + weights[:, 1:] * softmax(logits[1])
    np.testing.assert_allclose(found.log_probs.exp().numpy(), expected, rtol=1e-12)
    assert float(found.first_weight) == pytest.approx(weights[:, 0].mean(), rel=1e-12)
    assert found.nll is None


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("way", [ConfidenceFusion(), LearnedFusion(2)], ids=["confidence", "gate"])
def test_equal_teachers_are_their_mean(way, average):
    logits = logits_of(0)
    found = fused([logits, logits], average, way)
    np.testing.assert_allclose(found.log_probs.exp().detach().numpy(), softmax(logits), rtol=1e-6)
    assert float(found.first_weight) == pytest.approx(SHARES[0], rel=1e-6)


def test_a_certain_teacher_among_uncertain_ones_has_nearly_all_the_weight():
    certain = np.zeros((3, 256))
    certain[:, 7] = 1e4  # the others have a probability of 0
    weight = float(fused([certain, np.zeros((3, 256))], "probabilities").first_weight)
    assert weight == pytest.approx(0.25 / (0.25 + 0.75 / 256))
    assert weight > 0.98
    both = float(fused([certain, certain], "logits").first_weight)
    assert both == pytest.approx(0.25)


def test_one_candidate_says_nothing():
    found = fused([np.ones((1, 1)), np.zeros((1, 1))], "logits", LearnedFusion(2))
    assert float(found.first_weight) == pytest.approx(0.25)
    assert float(found.log_probs) == 0.0


def pairs(seed, width, count=6):
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, count, width)))
    return PairEmbeddings(*torch.nn.functional.normalize(rows, dim=-1))


def mixed(way, average, *, student=None, directions=(0.5, 0.5)):
    parts = (TeacherPart(slice(0, 4), 0.25), TeacherPart(slice(4, 8), 0.75))
    fusion = None if way is None else SampleFusion(way, average)
    return mixed_affinity_loss(
        student or pairs(1, 8), pairs(0, 8), student_scale=20.0, teacher_scale=30.0,
        directions=directions, parts=parts, fusion=fusion,
    )  # fmt: skip


def test_a_fresh_gate_is_the_mean_of_probabilities():
    expected, found = mixed(None, ""), mixed(LearnedFusion(2), "probabilities")
    assert float(found.loss.detach()) == pytest.approx(float(expected.loss), rel=1e-6)
    assert float(found.kl) == pytest.approx(float(expected.kl), rel=1e-6)


def test_a_gate_learns_which_teacher_finds_the_pairs_and_never_moves_the_student():
    # The first teacher knows all pairs, the second has them in another order.
    right = pairs(0, 4)
    wrong = PairEmbeddings(right.image, right.image.roll(1, dims=0))
    teacher = PairEmbeddings(
        torch.cat([right.image, wrong.image], -1), torch.cat([right.image, wrong.text], -1)
    )
    parts = (TeacherPart(slice(0, 4), 0.5), TeacherPart(slice(4, 8), 0.5))
    gate = LearnedFusion(2)
    module = gate.modules["fusion_gate"]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    weights, gradients = [], []
    for _ in range(60):
        student = PairEmbeddings(*(side.clone().requires_grad_() for side in pairs(1, 8)))
        terms = mixed_affinity_loss(
            student, teacher, student_scale=20.0, teacher_scale=5.0, parts=parts,
            fusion=SampleFusion(gate, "probabilities"),
        )  # fmt: skip
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        weights.append(float(terms.first_weight))
        gradients.append(student.image.grad)
    assert weights[0] == pytest.approx(0.5)
    assert weights[-1] > 0.9
    # The student's gradient is that of its targets alone: a gate whose weights are fixed.
    for weight in module.parameters():
        weight.requires_grad_(False)
    fixed = PairEmbeddings(*(side.clone().requires_grad_() for side in pairs(1, 8)))
    mixed_affinity_loss(
        fixed, teacher, student_scale=20.0, teacher_scale=5.0, parts=parts,
        fusion=SampleFusion(LearnedFusion(2), "probabilities"),
    ).loss.backward()  # fmt: skip
    torch.testing.assert_close(gradients[0], fixed.image.grad)


def test_the_gradient_of_a_gate_is_that_of_the_pairs_likelihood():
    gate = LearnedFusion(2)
    terms = mixed(gate, "probabilities", directions=(1.0, 0.0))
    terms.loss.backward()
    module = gate.modules["fusion_gate"]
    found = module.image_bias.grad.clone()
    teacher = pairs(0, 8)
    probabilities = [
        softmax(30.0 / share * (teacher.image[:, at] @ teacher.text[:, at].T).numpy())
        for share, at in ((0.25, slice(0, 4)), (0.75, slice(4, 8)))
    ]
    own = np.stack([p.diagonal() for p in probabilities], axis=1)  # [B, T]
    shares = np.array(SHARES)
    fused_own = own @ shares
    # d/ds of -log sum_t softmax(log share + s)_t p_t, at s = 0: share - share p_t / sum
    expected = (shares - shares * own / fused_own[:, None]).mean(axis=0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert float(terms.fusion_nll) == pytest.approx(-np.log(fused_own).mean(), rel=1e-6)
    np.testing.assert_array_equal(module.text_bias.grad.numpy(), np.zeros(2))


@pytest.mark.parametrize("average", AVERAGES)
def test_sigmoids_are_weighed_by_anchor(average):
    logits = [logits_of(0) - 2, logits_of(1) - 1]
    yes = [1 / (1 + np.exp(-x)) for x in logits]
    raw = np.stack(
        [
            share * np.exp((p * np.log(p) + (1 - p) * np.log(1 - p)).sum(axis=1))
            for share, p in zip(SHARES, yes, strict=True)
        ],
        axis=1,
    )
    weights = raw / raw.sum(axis=1, keepdims=True)
    fusion = SampleFusion(ConfidenceFusion(), average)
    found, no = fused_probabilities([torch.from_numpy(x) for x in logits], SHARES, fusion)
    if average == "probabilities":
        expected = weights[:, :1] * yes[0] + weights[:, 1:] * yes[1]
    else:
        expected = 1 / (1 + np.exp(-(weights[:, :1] * logits[0] + weights[:, 1:] * logits[1])))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(no.numpy(), 1 - expected, rtol=1e-10)


def test_sigmoid_affinity_of_equal_teachers_is_that_of_one():
    one = pairs(0, 4)
    both = PairEmbeddings(*(torch.cat([side, side], -1) / math.sqrt(2) for side in one))
    parts = (TeacherPart(slice(0, 4), 0.5, -2.0), TeacherPart(slice(4, 8), 0.5, -2.0))
    options = {"student_logits": Affine(5.0, -3.0), "teacher_logits": Affine(10.0, -2.0)}
    alone = sigmoid_affinity_loss(pairs(1, 8), one, **options)
    fusion = SampleFusion(ConfidenceFusion(), "probabilities")
    found = sigmoid_affinity_loss(pairs(1, 8), both, parts=parts, fusion=fusion, **options)
    assert float(found.loss) == pytest.approx(float(alone.loss), rel=1e-10)


BASE = {
    "teacher": {"model": "a", "ensemble": [{"model": "b"}], "fusion": "learned"},
    "student": {"model": "starter-15"},
    "data": {"train": "starter:train"},
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher": {"model": "a", "fusion": "confidence"}}, "weights several teachers"),
        ({"loss": {"affinity": 0, "feature": 1}}, "loss.affinity is 0"),
        ({"loss": {"affinity": {"kind": "sigmoid"}}}, "needs loss.affinity_kind softmax"),
        ({"data": {"images": "folder", "texts": "a.txt"}}, "needs each picture's own text"),
    ],
)
def test_what_cannot_be_fused_is_refused(changed, message):
    RunConfig.model_validate(BASE)
    with pytest.raises((ConfigError, ValueError), match=message):
        RunConfig.model_validate({**BASE, **changed})


def test_the_configuration_names_every_fusion():
    assert get_args(TeacherConfig.model_fields["fusion"].annotation) == tuple(FUSIONS)
