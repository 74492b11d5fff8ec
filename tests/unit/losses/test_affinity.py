from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tinyclip_edge.losses import affinity_loss, contrastive_loss, gather_with_grad


def unit_rows(rng, rows, width):
    x = rng.standard_normal((rows, width))
    # Rounded to float32 first, so that oracle and torch see the same numbers.
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def oracle(si, st, ti, tt, student_scale, teacher_scale, i2t=0.5, t2i=0.5):
    """Affinity mimicking as the paper writes it, in float64, with the gradients derived by hand."""
    batch = len(si)
    z, zt = student_scale * si @ st.T, teacher_scale * ti @ tt.T
    loss = entropy = 0.0
    grad = np.zeros_like(z)
    for weight, a, b, back in ((i2t, z, zt, False), (t2i, z.T, zt.T, True)):
        q, p = softmax(a), softmax(b)
        loss += weight * -(p * np.log(q)).sum(axis=1).mean()
        entropy += weight * -(p * np.log(p)).sum(axis=1).mean()
        g = weight * (q - p) / batch
        grad += g.T if back else g
    grads = student_scale * grad @ st, student_scale * grad.T @ si, (grad * (si @ st.T)).sum()
    return loss, entropy, grads


@pytest.mark.parametrize(
    ("scales", "weights"),
    [
        ((50.0, 50.0), (0.5, 0.5)),
        ((14.3, 100.0), (0.5, 0.5)),
        ((20.0, 30.0), (0.7, 0.2)),
        ((50.0, 50.0), (1.0, 0.0)),
        ((50.0, 50.0), (0.0, 1.0)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_affinity_equals_float64_oracle(scales, weights, dtype):
    rng = np.random.default_rng(0)
    si, st = unit_rows(rng, 12, 48), unit_rows(rng, 12, 48)
    ti, tt = unit_rows(rng, 12, 80), unit_rows(rng, 12, 80)  # widths may differ
    loss, entropy, grads = oracle(si, st, ti, tt, *scales, *weights)

    image, text = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in (si, st))
    scale = torch.tensor(scales[0], dtype=dtype, requires_grad=True)
    teacher = [torch.tensor(x, dtype=dtype) for x in (ti, tt)]
    terms = affinity_loss(
        image,
        text,
        *teacher,
        student_scale=scale,
        teacher_scale=scales[1],
        i2t=weights[0],
        t2i=weights[1],
    )
    terms.loss.backward()

    assert terms.loss.item() == pytest.approx(loss, rel=1e-6)
    assert terms.teacher_entropy.item() == pytest.approx(entropy, rel=1e-6, abs=1e-6)
    assert terms.kl.item() == pytest.approx(loss - entropy, rel=1e-6, abs=1e-6)
    for ours, theirs in zip((image.grad, text.grad, scale.grad), grads, strict=True):
        off = np.linalg.norm(ours.numpy() - theirs) / max(np.linalg.norm(theirs), 1e-3)
        assert off < (1e-6 if dtype == torch.float32 else 1e-12)
    for name, one in (("i2t", (1.0, 0.0)), ("t2i", (0.0, 1.0))):
        direction, _, _ = oracle(si, st, ti, tt, *scales, *one)
        assert getattr(terms, name).item() == pytest.approx(direction, rel=1e-6)
        assert not getattr(terms, name).requires_grad
    assert not terms.kl.requires_grad
    assert not terms.teacher_entropy.requires_grad


def test_perfect_student_reaches_the_floor():
    rng = np.random.default_rng(1)
    image, text = (torch.tensor(unit_rows(rng, 6, 8), dtype=torch.float32) for _ in range(2))
    student = image.clone().requires_grad_()
    terms = affinity_loss(student, text, image, text, student_scale=50.0, teacher_scale=50.0)
    terms.loss.backward()
    assert terms.kl.item() == pytest.approx(0.0, abs=1e-6)
    assert terms.loss.item() == pytest.approx(terms.teacher_entropy.item(), rel=1e-6)
    assert student.grad.abs().max().item() < 1e-5


def test_uninformed_student_pays_log_batch():
    # All student rows alike: its affinity is uniform, so CE = ln B whatever the teacher says.
    rng = np.random.default_rng(2)
    teacher = [torch.tensor(unit_rows(rng, 10, 8), dtype=torch.float32) for _ in range(2)]
    flat = torch.nn.functional.normalize(torch.ones(10, 4), dim=1)
    terms = affinity_loss(flat, flat, *teacher, student_scale=50.0, teacher_scale=50.0)
    assert terms.loss.item() == pytest.approx(math.log(10), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_are_raised_to_float32(dtype):
    rng = np.random.default_rng(3)
    features = [torch.tensor(unit_rows(rng, 8, 16)).to(dtype) for _ in range(4)]
    expected = oracle(*(f.double().numpy() for f in features), 50.0, 50.0)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = affinity_loss(*features, student_scale=50.0, teacher_scale=50.0)
        contrast = contrastive_loss(features[0], features[1], scale=50.0)
    assert terms.loss.dtype == torch.float32
    assert terms.loss.item() == pytest.approx(expected, rel=1e-6)
    assert contrast.dtype == torch.float32


def test_teacher_gets_no_gradient():
    rng = np.random.default_rng(4)
    features = [
        torch.tensor(unit_rows(rng, 4, 8), dtype=torch.float32, requires_grad=True)
        for _ in range(4)
    ]
    affinity_loss(*features, student_scale=50.0, teacher_scale=50.0).loss.backward()
    assert features[0].grad is not None
    assert features[2].grad is None
    assert features[3].grad is None


def test_contrastive_equals_float64_oracle():
    rng = np.random.default_rng(5)
    image, text = unit_rows(rng, 9, 32), unit_rows(rng, 9, 32)
    z = 20.0 * image @ text.T
    rows, columns = softmax(z), softmax(z.T)
    eye = np.eye(9)
    expected = -(np.log(rows.diagonal()).mean() + np.log(columns.diagonal()).mean()) / 2
    grad = ((rows - eye) + (columns - eye).T) / 2 / 9
    a, b = (torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in (image, text))
    loss = contrastive_loss(a, b, scale=20.0)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(a.grad.numpy(), 20.0 * grad @ text, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(b.grad.numpy(), 20.0 * grad.T @ image, rtol=1e-5, atol=1e-6)


def test_gather_is_the_identity_without_processes():
    x = torch.randn(3, 2, requires_grad=True)
    assert gather_with_grad(x) is x
