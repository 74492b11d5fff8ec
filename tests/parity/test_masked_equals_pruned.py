"""masked == pruned == the masks written out in float64, in every case that the gates allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from masked_clip import make_clip, pairs, random_masks, reference_features
from tinyclip_edge.inheritance.gates import CLAMP, ClipGates, ClipMasks, TowerMasks
from tinyclip_edge.inheritance.masked import MaskedClip
from tinyclip_edge.models.pruned import clip_units, prune_clip

TOLERANCE = 1e-5


def features_of(model, pixels, ids):
    with torch.inference_mode():
        return model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)


def check(clip, masks, *, tolerance=TOLERANCE):
    """Compare three ways to run masks; return the pruned CLIP."""
    pixels, ids = pairs()
    trimmed = ids[:, :8]
    masked = MaskedClip(clip.model, clip_units(clip))
    with torch.inference_mode():
        image, text = masked.encode_image(pixels, masks), masked.encode_text(ids, masks)
        short = masked.encode_text(trimmed, masks)
    expected = reference_features(clip.model, masks, pixels, ids)
    pruned = prune_clip(clip, masks)
    dense = features_of(pruned.clip.model, pixels, ids)
    for ours, theirs in ((image, expected[0]), (text, expected[1]), (short, expected[1])):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=tolerance)
    for ours, theirs in zip(dense, (image, text), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=tolerance)
    assert pruned.parameters_after == sum(p.numel() for p in pruned.clip.model.parameters())
    return pruned


def ones(units):
    return ClipMasks(
        *(
            TowerMasks(
                torch.ones(t.width),
                tuple(torch.ones(n) for n in t.heads),
                tuple(torch.ones(n) for n in t.neurons),
            )
            for t in (units.image, units.text)
        )
    )


def gates_at(units, value):
    gates = ClipGates(units)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.fill_(value)
    return gates


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_random_masks(toy_tokenizer_file, quick_gelu, seed):
    clip = make_clip(toy_tokenizer_file, quick_gelu=quick_gelu, seed=seed)
    check(clip, random_masks(clip_units(clip), seed, off=seed / 8))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("pruned_units", ["heads", "neurons", "both"])
def test_a_layer_without_units_keeps_its_bias(toy_tokenizer_file, layer, pruned_units):
    clip = make_clip(toy_tokenizer_file)
    masks = random_masks(clip_units(clip), 3)
    for tower in masks:
        for kind in ("heads", "neurons"):
            if pruned_units in (kind, "both"):
                getattr(tower, kind)[layer].zero_()
            elif not getattr(tower, kind)[layer].any():
                getattr(tower, kind)[layer][0] = 0.7
    block = check(clip, masks).clip.model.transformer.resblocks[layer]
    names = {name for name, _ in block.named_parameters()}
    assert (
        ("attn.in_proj_weight" in names) == ("ln_1.weight" in names) == (pruned_units == "neurons")
    )
    assert ("mlp.c_fc.weight" in names) == ("ln_2.weight" in names) == (pruned_units == "heads")
    assert {"attn.out_proj.bias", "mlp.c_proj.bias"} <= names


def test_every_layer_is_without_units(toy_tokenizer_file):
    clip = make_clip(toy_tokenizer_file)
    masks = random_masks(clip_units(clip), 4)
    for tower in masks:
        for mask in (*tower.heads, *tower.neurons):
            mask.zero_()
    check(clip, masks)


@pytest.mark.parametrize("value", [CLAMP, 0.0, -1.3, -3.0])
def test_tied_gates(toy_tokenizer_file, value):
    clip = make_clip(toy_tokenizer_file)
    units = clip_units(clip)
    gates = gates_at(units, value)
    pruned = check(clip, gates.binarised())
    if value == CLAMP:
        assert pruned.plan.after == units
        assert pruned.parameters_after == pruned.parameters_before
        assert pruned.sparsity == 0


def test_masks_of_one_are_the_model_itself(toy_tokenizer_file):
    clip = make_clip(toy_tokenizer_file)
    pixels, ids = pairs()
    masked, masks = MaskedClip(clip.model, clip_units(clip)), ones(clip_units(clip))
    original = features_of(clip.model, pixels, ids)
    with torch.inference_mode():
        bare = masked(pixels, ids[:, :8])
        ours = masked(pixels, ids, masks)
    for a, b, c in zip(original, bare[:2], ours[:2], strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), atol=1e-6)
        np.testing.assert_allclose(c.numpy(), a.numpy(), atol=1e-6)
    assert float(bare[2]) == pytest.approx(clip.logit_scale)


@pytest.mark.parametrize("seed", range(3))
def test_a_pruned_model_is_masked_and_pruned_again(toy_tokenizer_file, seed):
    clip = make_clip(toy_tokenizer_file, seed=seed)
    first = check(clip, random_masks(clip_units(clip), seed, off=0.3)).clip
    units = clip_units(first)
    assert len(set(units.image.heads)) > 1 or len(set(units.image.neurons)) > 1
    second = check(first, random_masks(units, seed + 10, off=0.3))
    assert second.parameters_after < second.parameters_before
    assert clip_units(second.clip) == second.plan.after


@pytest.mark.parametrize(
    "vision", [{"pool_type": "avg"}, {"ls_init_value": 0.1}, {"no_ln_pre": True}]
)
def test_other_image_towers_that_masks_know(toy_tokenizer_file, vision):
    clip = make_clip(toy_tokenizer_file, **vision)
    masks = random_masks(clip_units(clip), 5)
    pixels, ids = pairs()
    masked = MaskedClip(clip.model, clip_units(clip))
    with torch.inference_mode():
        image = masked.encode_image(pixels, masks)
    dense = features_of(prune_clip(clip, masks).clip.model, pixels, ids)
    np.testing.assert_allclose(dense[0].numpy(), image.numpy(), atol=TOLERANCE)


def test_gradients_reach_weights_and_gates(toy_tokenizer_file):
    clip = make_clip(toy_tokenizer_file)
    gates = gates_at(clip_units(clip), 1.0)
    masked = MaskedClip(clip.model, clip_units(clip))
    image, text, _ = masked(*pairs(), gates.sample(torch.Generator().manual_seed(0)))
    (image[:, 0].sum() + text[:, 0].sum()).backward()
    for log_alpha in gates.parameters():
        assert log_alpha.grad.isfinite().all()
        assert log_alpha.grad.count_nonzero() > 0
    used = {n for n, p in clip.model.named_parameters() if p.grad is not None}
    assert used == {n for n, _ in clip.model.named_parameters()} - {"logit_scale"}


def test_masked_gradients_equal_those_of_the_reference(toy_tokenizer_file):
    """d features / d mask against finite differences of the float64 reference."""
    clip = make_clip(toy_tokenizer_file)
    masks = random_masks(clip_units(clip), 6)
    pixels, ids = pairs()
    masks.image.hidden.requires_grad_()
    masks.text.heads[0].requires_grad_()
    image, text, _ = MaskedClip(clip.model, clip_units(clip))(pixels, ids, masks)
    (image[:, 0].sum() + text[:, 0].sum()).backward()
    for at, mask in (
        (0, masks.image.hidden),
        (int(masks.text.heads[0].argmax()), masks.text.heads[0]),
    ):
        values = []
        for shift in (1e-3, -1e-3):
            with torch.no_grad():
                mask[at] += shift
                image, text = reference_features(clip.model, masks, pixels, ids)
                values.append(float(image[:, 0].sum() + text[:, 0].sum()))
                mask[at] -= shift
        assert float(mask.grad[at]) == pytest.approx(
            (values[0] - values[1]) / 2e-3, rel=1e-3, abs=1e-4
        )


def test_masks_run_under_autocast(toy_tokenizer_file):
    clip = make_clip(toy_tokenizer_file)
    masks = random_masks(clip_units(clip), 8)
    masks.image.heads[0].zero_()
    pixels, ids = pairs()
    exact = reference_features(clip.model, masks, pixels, ids)
    with torch.autocast("cpu", torch.bfloat16):
        image, text, _ = MaskedClip(clip.model, clip_units(clip))(pixels, ids, masks)
        dense = features_of(prune_clip(clip, masks).clip.model, pixels, ids)
    (image.sum() + text.sum()).backward()
    for ours, theirs in ((image, exact[0]), (text, exact[1]), (dense[0], exact[0])):
        # bfloat16 has 8 bits: a few parts in a hundred after three layers
        cosine = (ours.detach().double() * theirs).sum(dim=-1)
        assert float(cosine.min()) > 0.995


def test_a_sample_without_channels_still_runs(toy_tokenizer_file):
    clip = make_clip(toy_tokenizer_file)
    masks = random_masks(clip_units(clip), 7)
    for tower in masks:
        tower.hidden.zero_()
    image, text, _ = MaskedClip(clip.model, clip_units(clip))(*pairs(), masks)
    assert image.isfinite().all()
    assert text.isfinite().all()
