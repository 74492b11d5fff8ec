"""SigLIP's loss and the affinity of pairwise probabilities against float64 arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinyclip_edge.losses import PairEmbeddings, TeacherPart, sigmoid_affinity_loss, sigmoid_loss
from tinyclip_edge.losses.sigmoid import Affine


def unit_rows(rng, rows, width):
    x = rng.standard_normal((rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def oracle(image, text, scale, bias, yes):
    """Sum of binary cross entropies over B, and gradients derived by hand."""
    similarity = image @ text.T
    logits = scale * similarity + bias
    loss = -(yes * log_sigmoid(logits) + (1 - yes) * log_sigmoid(-logits)).sum() / len(image)
    slope = (1 / (1 + np.exp(-logits)) - yes) / len(image)
    grads = scale * slope @ text, scale * slope.T @ image, (slope * similarity).sum(), slope.sum()
    return loss, grads


def leaves(dtype, *values):
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in values]


def check(result, expected, dtype):
    limit = 1e-6 if dtype == torch.float32 else 1e-12
    for ours, theirs in zip(result, expected, strict=True):
        off = np.linalg.norm(ours.grad.numpy() - theirs) / np.linalg.norm(theirs)
        assert off < limit


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (117.3, -16.5), (5.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_pairs", [1 << 22, 30])
def test_sigmoid_loss_equals_float64_oracle(scale, bias, dtype, chunk_pairs):
    rng = np.random.default_rng(0)
    image, text = unit_rows(rng, 11, 24), unit_rows(rng, 11, 24)
    expected, grads = oracle(image, text, scale, bias, np.eye(11))
    ours = leaves(dtype, image, text, scale, bias)
    loss = sigmoid_loss(*ours[:2], scale=ours[2], bias=ours[3], chunk_pairs=chunk_pairs)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    check(ours, grads, dtype)


def test_sigmoid_loss_by_hand():
    # Two pairs at a cosine of 1, crossed ones at 0; scale 4, bias -2: logits 2 and -2.
    eye = torch.eye(2)
    loss = sigmoid_loss(eye, eye, scale=4.0, bias=-2.0)
    assert loss.item() == pytest.approx(2 * math.log(1 + math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_pairs", [1 << 22, 30])
def test_sigmoid_affinity_equals_float64_oracle(dtype, chunk_pairs):
    rng = np.random.default_rng(1)
    image, text = unit_rows(rng, 11, 24), unit_rows(rng, 11, 24)
    theirs = unit_rows(rng, 11, 40), unit_rows(rng, 11, 40)  # widths may differ
    yes = 1 / (1 + np.exp(-(30.0 * theirs[0] @ theirs[1].T - 3.0)))
    expected, grads = oracle(image, text, 12.0, -4.0, yes)
    entropy = -(yes * np.log(yes) + (1 - yes) * np.log1p(-yes)).sum() / 11
    ours = leaves(dtype, image, text, 12.0, -4.0)
    teacher = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in theirs]
    terms = sigmoid_affinity_loss(
        PairEmbeddings(*ours[:2]),
        PairEmbeddings(*teacher),
        student_logits=Affine(*ours[2:]),
        teacher_logits=Affine(30.0, -3.0),
        chunk_pairs=chunk_pairs,
    )
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(expected, rel=1e-6)
    assert terms.teacher_entropy.item() == pytest.approx(entropy, rel=1e-6)
    assert terms.kl.item() == pytest.approx(expected - entropy, rel=1e-5)
    check(ours, grads, dtype)
    assert all(x.grad is None for x in teacher)


def test_a_perfect_student_reaches_the_floor():
    rng = np.random.default_rng(2)
    image, text = (torch.tensor(unit_rows(rng, 7, 8), dtype=torch.float64) for _ in range(2))
    student = PairEmbeddings(image.clone().requires_grad_(), text)
    affine = Affine(20.0, -5.0)
    terms = sigmoid_affinity_loss(
        student, PairEmbeddings(image, text), student_logits=affine, teacher_logits=affine
    )
    terms.loss.backward()
    assert terms.kl.item() == pytest.approx(0.0, abs=1e-12)
    assert student.image.grad.abs().max().item() < 1e-12


def test_rows_of_all_processes_add_up():
    rng = np.random.default_rng(3)
    image, text = (torch.tensor(unit_rows(rng, 9, 8), dtype=torch.float64) for _ in range(2))
    full = sigmoid_loss(image, text, scale=10.0, bias=-5.0)
    shares = [
        sigmoid_loss(image, text, scale=10.0, bias=-5.0, rows=rows)
        for rows in (slice(0, 4), slice(4, 4), slice(4, 9))
    ]
    assert sum(shares).item() == pytest.approx(full.item(), rel=1e-12)
    assert shares[1].item() == 0


class Sizes(TorchDispatchMode):
    """Notes the values of every tensor that is computed."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.sizes += [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        return result


def test_no_matrix_of_all_pairs_is_computed():
    image, text = (torch.randn(64, 4, requires_grad=True) for _ in range(2))
    with Sizes() as sizes:
        sigmoid_loss(image, text, scale=1.0, bias=0.0, chunk_pairs=4 * 64).backward()
    assert max(sizes.sizes) == 4 * 64
    with Sizes() as sizes:
        sigmoid_loss(image, text, scale=1.0, bias=0.0).backward()
    assert max(sizes.sizes) == 64 * 64


def test_probabilities_of_teachers_are_averaged():
    # Joined features: columns of both, each times the root of its part in the joined scale.
    rng = np.random.default_rng(4)
    image, text = unit_rows(rng, 6, 8), unit_rows(rng, 6, 8)
    teachers = [[unit_rows(rng, 6, width) for _ in range(2)] for width in (5, 7)]
    scales, biases, weights = (10.0, 30.0), (-4.0, -9.0), (0.25, 0.75)
    joined = sum(w * s for w, s in zip(weights, scales, strict=True))
    roots = [math.sqrt(w * s / joined) for w, s in zip(weights, scales, strict=True)]
    features = [
        torch.tensor(
            np.concatenate([r * t[side] for r, t in zip(roots, teachers, strict=True)], axis=1)
        )
        for side in (0, 1)
    ]
    yes = sum(
        w / (1 + np.exp(-(s * t[0] @ t[1].T + b)))
        for w, s, b, t in zip(weights, scales, biases, teachers, strict=True)
    )
    expected, _ = oracle(image, text, 12.0, -4.0, yes)
    terms = sigmoid_affinity_loss(
        PairEmbeddings(torch.tensor(image), torch.tensor(text)),
        PairEmbeddings(*features),
        student_logits=Affine(12.0, -4.0),
        teacher_logits=Affine(joined, 0.0),
        parts=[TeacherPart(slice(0, 5), 0.25, -4.0), TeacherPart(slice(5, 12), 0.75, -9.0)],
    )
    assert terms.loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_are_raised_to_float32(dtype):
    rng = np.random.default_rng(5)
    image, text = (torch.tensor(unit_rows(rng, 8, 16)).to(dtype) for _ in range(2))
    expected, _ = oracle(image.double().numpy(), text.double().numpy(), 10.0, -5.0, np.eye(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sigmoid_loss(image, text, scale=10.0, bias=-5.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-6)
