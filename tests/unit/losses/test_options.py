"""Hard pairs, mean probabilities of teachers and interactive contrast in float64 arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tinyclip_edge.losses import HardPairs, PairEmbeddings, TeacherPart, interactive_loss
from tinyclip_edge.losses.affinity import affinity_loss, mixed_affinity_loss
from tinyclip_edge.losses.sigmoid import Affine, sigmoid_affinity_loss

ROWS = 9


def unit_rows(rng, rows, width):
    x = rng.standard_normal((rows, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def tensors(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return [unit_rows(rng, ROWS, width) for width in (12, 12, 20, 20)]


def hard_weights(similarity, beta, alpha, threshold):
    """Equations 12 and 13 of the paper, each group divided by its mean."""
    weights = np.empty_like(similarity)
    for i, row in enumerate(similarity):
        others = np.delete(np.arange(len(row)), i)
        raw = np.exp(beta * (row[others] - threshold))
        raw = raw / (1 + raw.sum())
        weights[i, others] = raw / raw.mean()
    own = np.exp(-alpha * (np.diagonal(similarity) - threshold))
    own = own / (1 + own)
    np.fill_diagonal(weights, own / own.mean())
    return weights


def test_weights_of_pairs_by_hand():
    # Anchor 0: negatives at 0 and ln 3 / 2; with a beta of 2 they weigh 1 : 3, mean 1.
    similarity = torch.tensor([[0.5, 0.0, math.log(3) / 2]], dtype=torch.float64)
    positives = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    result = HardPairs(negative=2.0, positive=4.0, threshold=0.5).weights(similarity, positives, 0)
    assert result[0].tolist() == pytest.approx([1.0, 0.5, 1.5])
    # Positives at 0.5 and far below it: sigmoids of 0 and 40, 0.5 and 1 of a mean of 0.75.
    positives = torch.tensor([0.5, -9.5], dtype=torch.float64)
    result = HardPairs(negative=0.0, positive=4.0, threshold=0.5).weights(
        torch.zeros(1, 2, dtype=torch.float64), positives, 1
    )
    assert result[0].tolist() == pytest.approx([1.0, 4 / 3])


def weighted_oracle(si, st, ti, tt, weigh):
    """Loss, entropy, and gradients with the weights as constants."""
    z, zt = 20.0 * si @ st.T, 30.0 * ti @ tt.T
    similarity = si @ st.T
    loss = entropy = 0.0
    grad = np.zeros_like(z)
    for a, b, s, back in ((z, zt, similarity, False), (z.T, zt.T, similarity.T, True)):
        q, p, w = softmax(a), softmax(b), weigh(s)
        loss += 0.5 * (w * (q - p - p * np.log(q))).sum(axis=1).mean()
        entropy += 0.5 * -(w * p * np.log(p)).sum(axis=1).mean()
        g = w * (q - p)
        g = 0.5 * (g - q * g.sum(axis=1, keepdims=True)) / ROWS
        grad += g.T if back else g
    return loss, entropy, (20.0 * grad @ st, 20.0 * grad.T @ si)


def weighted_affinity(ours, hard_pairs):
    return mixed_affinity_loss(
        PairEmbeddings(*ours[:2]),
        PairEmbeddings(*ours[2:]),
        student_scale=20.0,
        teacher_scale=30.0,
        hard_pairs=hard_pairs,
    )


def test_hard_pairs_in_the_affinity_equal_the_oracle(features):
    loss, entropy, grads = weighted_oracle(*features, lambda s: hard_weights(s, 6.0, 3.0, 0.4))
    ours = tensors(*features)
    terms = weighted_affinity(ours, HardPairs(6.0, 3.0, 0.4))
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(loss, rel=1e-12)
    assert terms.teacher_entropy.item() == pytest.approx(entropy, rel=1e-12)
    assert terms.kl.item() == pytest.approx(loss - entropy, rel=1e-10)
    for tensor, expected in zip(ours, grads, strict=False):
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_equal_weights_are_the_plain_affinity(features):
    plain = affinity_loss(*tensors(*features), student_scale=20.0, teacher_scale=30.0)
    # A vanishing exponent takes the weighted path with weights of 1.
    terms = weighted_affinity(tensors(*features), HardPairs(0.0, 0.0, 0.5))
    assert terms.loss.item() == pytest.approx(plain.loss.item(), rel=1e-12)
    assert terms.kl.item() == pytest.approx(plain.kl.item(), rel=1e-10)


def test_hard_pairs_leave_the_perfect_student_where_it_is(features):
    image, text = features[2:]
    student = PairEmbeddings(*tensors(image, text))
    teacher = PairEmbeddings(*tensors(image, text))
    terms = mixed_affinity_loss(
        student, teacher, student_scale=30.0, teacher_scale=30.0, hard_pairs=HardPairs(9, 2, 0.5)
    )
    terms.loss.backward()
    assert terms.kl.item() == pytest.approx(0, abs=1e-12)
    assert student.image.grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("chunk_pairs", [1 << 22, 3 * ROWS])
def test_hard_pairs_of_the_sigmoid_equal_the_oracle(features, chunk_pairs):
    si, st, ti, tt = features
    similarity = si @ st.T
    logits, targets = 10.0 * similarity - 3.0, 1 / (1 + np.exp(-(30.0 * ti @ tt.T - 5.0)))
    pair = np.logaddexp(0, logits) - targets * logits
    by_image, by_text = (hard_weights(s, 6.0, 3.0, 0.4) for s in (similarity, similarity.T))
    weights = (by_image + by_text.T) / 2
    slope = weights * (1 / (1 + np.exp(-logits)) - targets) / ROWS
    ours = tensors(*features)
    terms = sigmoid_affinity_loss(
        PairEmbeddings(*ours[:2]),
        PairEmbeddings(*ours[2:]),
        student_logits=Affine(10.0, -3.0),
        teacher_logits=Affine(30.0, -5.0),
        hard_pairs=HardPairs(6.0, 3.0, 0.4),
        chunk_pairs=chunk_pairs,
    )
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx((weights * pair).sum() / ROWS, rel=1e-12)
    np.testing.assert_allclose(ours[0].grad.numpy(), 10.0 * slope @ st, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours[1].grad.numpy(), 10.0 * slope.T @ si, rtol=1e-9, atol=1e-12)


def test_probabilities_of_teachers_are_averaged(features):
    si, st, *_ = features
    rng = np.random.default_rng(1)
    teachers = [[unit_rows(rng, ROWS, width) for _ in range(2)] for width in (5, 7)]
    scales, weights = (10.0, 30.0), (0.25, 0.75)
    joined = sum(w * s for w, s in zip(weights, scales, strict=True))
    roots = [math.sqrt(w * s / joined) for w, s in zip(weights, scales, strict=True)]
    both = [
        np.concatenate([r * t[side] for r, t in zip(roots, teachers, strict=True)], axis=1)
        for side in (0, 1)
    ]
    z, expected = 20.0 * si @ st.T, 0.0
    for back in (False, True):
        logits = [s * t[0] @ t[1].T for s, t in zip(scales, teachers, strict=True)]
        p = sum(w * softmax(x.T if back else x) for w, x in zip(weights, logits, strict=True))
        expected += 0.5 * -(p * np.log(softmax(z.T if back else z))).sum(axis=1).mean()
    terms = mixed_affinity_loss(
        PairEmbeddings(*tensors(si, st)),
        PairEmbeddings(*tensors(*both)),
        student_scale=20.0,
        teacher_scale=joined,
        parts=[TeacherPart(slice(0, 5), 0.25), TeacherPart(slice(5, 12), 0.75)],
    )
    assert terms.loss.item() == pytest.approx(expected, rel=1e-12)
    assert terms.kl.item() >= 0


def test_interactive_contrast_equals_the_oracle(features):
    si, st, ti, tt = (x[:, :12] for x in features)
    expected, grads = 0.0, []
    for anchors, others in ((si, tt), (st, ti)):
        q = softmax(25.0 * anchors @ others.T)
        expected += -np.log(q.diagonal()).mean() / 2
        grads.append(25.0 * (q - np.eye(ROWS)) @ others / ROWS / 2)
    ours = tensors(si, st, ti, tt)
    loss = interactive_loss(PairEmbeddings(*ours[:2]), PairEmbeddings(*ours[2:]), scale=25.0)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    for tensor, grad in zip(ours, grads, strict=False):
        np.testing.assert_allclose(tensor.grad.numpy(), grad, rtol=1e-9, atol=1e-12)
    assert ours[2].grad is None
    assert ours[3].grad is None
