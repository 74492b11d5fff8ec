"""Scores against finite differences and closed forms; choices against cases done by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.importance import (
    Blocks,
    only_layers,
    score_embedding,
    search_layers,
    top,
)
from tinyclip_edge.inheritance.open_clip_kinds import VIT
from tinyclip_edge.inheritance.probe import TowerProbe, fisher_direction

N, OTHERS = 4, 6
POINTS = VIT.probe


def test_top_is_ascending_and_ties_go_to_the_front():
    assert top(torch.tensor([0.0, 3.0, 1.0, 3.0, 2.0]), 3) == (1, 3, 4)
    assert top(torch.tensor([1.0, 2.0, 1.0, 1.0]), 2) == (0, 1)
    assert top(torch.zeros(5), 5) == (0, 1, 2, 3, 4)


def test_direction_has_the_covariance_of_the_fisher_information():
    """diag(p) - p p^T, the second derivative of the KL by the logits."""
    p = torch.tensor([0.6, 0.3, 0.1, 0.0])
    draws = fisher_direction(p.expand(200_000, 4), torch.Generator().manual_seed(0))
    expected = np.diag(p.numpy()) - np.outer(p, p)
    np.testing.assert_allclose(torch.cov(draws.T).numpy(), expected, atol=5e-3)
    np.testing.assert_allclose(draws.mean(dim=0), 0, atol=5e-3)
    np.testing.assert_allclose(draws.sum(dim=1), 0, atol=1e-5)  # a shift of all logits is nothing


def scaled_copy(model, kind, layer, unit):
    """Run the image tower with one unit's output times ``gate``, done on the weights."""

    def run(images, gate):
        state = {k: v.clone() for k, v in model.state_dict().items()}
        block = f"visual.transformer.resblocks.{layer}."
        if kind == "heads":
            state[block + "attn.out_proj.weight"][:, unit * 64 : unit * 64 + 64] *= gate
        elif kind == "neurons":
            state[block + "mlp.c_proj.weight"][:, unit] *= gate
        else:  # whatever writes the channel
            writers = [f"visual.ln_pre.{part}" for part in ("weight", "bias")]
            for number, part in itertools.product(range(4), ("attn.out_proj", "mlp.c_proj")):
                name = f"visual.transformer.resblocks.{number}.{part}"
                writers += [f"{name}.weight", f"{name}.bias"]
            for name in writers:
                state[name][unit] *= gate
        return torch.func.functional_call(model, state, (images,))[0]  # unit-norm features

    return run


@pytest.fixture
def probed(toy_teacher):
    """Scores of one draw over the image tower in float64, and what they should be."""
    model = toy_teacher.model.double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(N, 3, 32, 32, generator=generator, dtype=torch.float64)
    others = F.normalize(torch.randn(OTHERS, 64, generator=generator, dtype=torch.float64), dim=-1)

    def logits_of(features):
        return 20 * features @ others.T

    with TowerProbe(model.visual.transformer.resblocks, POINTS, 64) as probe:
        logits = logits_of(F.normalize(model.encode_image(images), dim=-1))
        probe.add(logits, 1, torch.Generator().manual_seed(2))
    p = logits.detach().softmax(dim=-1)
    direction = fisher_direction(p, torch.Generator().manual_seed(2))

    def expected(kind, layer, unit):
        run, step = scaled_copy(model, kind, layer, unit), 1e-5
        with torch.no_grad():
            ahead, behind = (logits_of(run(images, 1 + s)) for s in (step, -step))
        slope = ((ahead - behind) / (2 * step) * direction).sum(dim=1)
        return float(slope.square().mean())

    return probe.scores(), expected


@pytest.mark.parametrize(
    ("kind", "at"),
    [("heads", (0, 1)), ("heads", (3, 0)), ("neurons", (1, 7)), ("neurons", (2, 511)),
     ("channels", (0,)), ("channels", (127,))],
)  # fmt: skip
def test_scores_are_those_of_finite_differences(probed, kind, at):
    scores, expected = probed
    layer, unit = (0, *at) if kind == "channels" else at
    reference = expected(kind, layer, unit)
    assert reference > 1e-6
    assert float(getattr(scores, kind)[at]) == pytest.approx(reference, rel=1e-5)


def test_probe_leaves_no_hooks_and_no_gradients(toy_teacher):
    transformer = toy_teacher.model.visual.transformer
    with pytest.raises(RuntimeError, match="stop"), TowerProbe(transformer.resblocks, POINTS, 64):
        raise RuntimeError("stop")
    for module in transformer.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(p.grad is None for p in transformer.parameters())


def test_a_block_without_plain_attention_is_refused(toy_teacher):
    transformer = toy_teacher.model.visual.transformer
    transformer.resblocks[2].attn = torch.nn.Identity()
    with pytest.raises(InheritanceError, match="cannot probe ResidualAttentionBlock"):
        TowerProbe(transformer.resblocks, POINTS, 64)


def test_embedding_scores_against_numpy():
    """Change of the logits without a dimension, squared in the metric of the softmax."""
    rng = np.random.default_rng(0)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 5, 3)))
    expected = np.zeros(3)
    for ours, theirs in ((image, text), (text, image)):
        logits = 7.0 * ours @ theirs.T
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        for row, weights in zip(ours, p, strict=True):
            covariance = np.diag(weights) - np.outer(weights, weights)
            for dim in range(3):
                change = 7.0 * row[dim] * theirs[:, dim]
                expected[dim] += change @ covariance @ change / 5
    actual = score_embedding(torch.from_numpy(image), torch.from_numpy(text), 7.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_layers_are_exchanged_until_nothing_helps():
    expected = {1, 2, 6}
    tried = []

    def cost(layers):
        tried.append(layers)
        return len(expected - set(layers))

    assert search_layers(8, 3, cost) == (1, 2, 6)
    assert len(tried) == len(set(tried))  # no set is measured twice
    assert all(list(layers) == sorted(set(layers)) for layers in tried)


def test_layers_that_cost_the_same_stay_evenly_spaced():
    assert search_layers(6, 3, lambda layers: 1.0) == (0, 3, 5)
    assert search_layers(4, 4, lambda layers: 1.0) == (0, 1, 2, 3)


def test_layers_come_back_after_an_error(toy_teacher):
    transformer = toy_teacher.model.visual.transformer
    blocks = transformer.resblocks
    with (
        pytest.raises(RuntimeError, match="stop"),
        only_layers([Blocks(transformer, "resblocks")], [(0, 3)]),
    ):
        assert [*transformer.resblocks] == [blocks[0], blocks[3]]
        raise RuntimeError("stop")
    assert transformer.resblocks is blocks
