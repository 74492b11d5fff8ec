"""Feature mimicking against float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyclip_edge.losses import FeatureProjector, feature_loss


def rows(seed, width):
    x = np.random.default_rng(seed).standard_normal((7, width))
    return x.astype(np.float32).astype(np.float64)


def oracle(a, b, kind):
    """Loss and gradient in ``a``, derived by hand."""
    if kind == "mse":
        return ((a - b) ** 2).mean(), 2 * (a - b) / a.size
    na, nb = (np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    cosine = (a * b).sum(axis=1, keepdims=True) / (na * nb)
    grad = -(b / (na * nb) - cosine * a / na**2) / len(a)
    return (1 - cosine).mean(), grad


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_feature_loss_equals_float64_oracle(kind):
    a, b = rows(0, 24), rows(1, 24)
    expected, grad = oracle(a, b, kind)
    ours = torch.tensor(a, dtype=torch.float32, requires_grad=True)
    theirs = torch.tensor(b, dtype=torch.float32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = feature_loss(ours, theirs, kind=kind)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(ours.grad.numpy(), grad, rtol=1e-5, atol=1e-7)
    assert theirs.grad is None


def test_the_projector_is_a_matrix_a_tower():
    torch.manual_seed(0)
    projector = FeatureProjector(4, 6)
    image, text = torch.randn(3, 4), torch.randn(3, 4)
    projected = projector(image, text)
    for out, x, layer in zip(
        projected, (image, text), (projector.image, projector.text), strict=True
    ):
        expected = x.double().numpy() @ layer.weight.detach().double().numpy().T
        np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-6)
    assert sum(p.numel() for p in projector.parameters()) == 2 * 4 * 6
