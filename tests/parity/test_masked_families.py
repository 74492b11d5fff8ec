"""Masks on today's families: masked = pruned, and a prune is saved, loaded and exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from families import FAMILIES, families, family
from masked_clip import random_masks
from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.gates import ClipGates
from tinyclip_edge.inheritance.masked import MaskedClip
from tinyclip_edge.models import load_clip, save_local_dir
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_export.towers.factory import image_tower, text_tower

NAMES = [name for name in FAMILIES if name != "ViT"]
BLOCKS = ("transformer.resblocks.", "trunk.blocks.")


def inputs(clip):
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(3, 3, clip.image_size, clip.image_size, generator=generator)
    ids = torch.randint(1, clip.vocabulary, (3, clip.context_length), generator=generator)
    return pixels, ids


@torch.no_grad()
def features(model, pixels, ids):
    return model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)


@pytest.fixture(params=families(NAMES))
def clip(request):
    return family(request.param)


def test_masks_of_none_are_the_model_itself(clip):
    pixels, ids = inputs(clip)
    with torch.no_grad():
        ours = MaskedClip(clip.model, clip_units(clip))(pixels, ids)
    for a, b in zip(ours, features(clip.model, pixels, ids), strict=False):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_masked_is_pruned(clip, seed, tmp_path):
    units = clip_units(clip)
    masks = random_masks(units, seed, off=0.2 + seed / 5)
    masks.image.heads[1].zero_()
    masks.image.neurons[2].zero_()
    pixels, ids = inputs(clip)
    with torch.no_grad():
        masked = MaskedClip(clip.model, units)(pixels, ids, masks)
    pruned = prune_clip(clip, masks).clip
    for a, b in zip(features(pruned.model, pixels, ids), masked, strict=False):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)
    assert clip_units(pruned) == prune_clip(clip, masks).plan.after
    save_local_dir(tmp_path / "pruned", pruned)
    loaded = load_clip(str(tmp_path / "pruned"))
    for a, b in zip(
        features(loaded.model, pixels, ids), features(pruned.model, pixels, ids), strict=True
    ):
        assert torch.equal(a, b)
    with torch.no_grad():
        exported = image_tower(pruned.model)(pixels), text_tower(pruned.model)(ids)
    for a, b in zip(exported, features(pruned.model, pixels, ids), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


def test_the_size_that_gates_count_is_that_of_the_blocks(clip):
    units = clip_units(clip)
    blocks = sum(
        parameter.numel()
        for name, parameter in clip.model.named_parameters()
        if any(part in name for part in BLOCKS)
        and not any(norm in name for norm in ("norm", "ln_", "ls"))
    )
    # EVA02 has no bias on its keys, and none that the count knows.
    keys = sum(units.image.heads) * units.image.head_width
    missing = keys if units.image.matrices == 3 else 0
    assert units.prunable - missing == blocks
    gates = ClipGates(units)
    assert gates.expected_parameters().item() == pytest.approx(units.prunable, rel=2e-2)


def test_gradients_reach_weights_and_gates(clip):
    units = clip_units(clip)
    gates = ClipGates(units)
    masks = gates.sample(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.fill_(1.0)
    masks = gates.sample(torch.Generator().manual_seed(0))
    image, text, _ = MaskedClip(clip.model, units)(*inputs(clip), masks)
    (image[:, 0].sum() + text[:, 0].sum()).backward()
    assert all(int(log_alpha.grad.count_nonzero()) > 0 for log_alpha in gates.parameters())
    unused = {n for n, p in clip.model.named_parameters() if p.grad is None}
    assert unused <= {"logit_scale", "logit_bias"}


def test_a_model_of_another_kind_than_its_units_is_refused(tmp_path):
    clip = family("EVA02")
    pruned = prune_clip(clip, random_masks(clip_units(clip), 1)).clip
    pruned.config["units"]["image"].pop("kind")
    save_local_dir(tmp_path / "pruned", pruned)
    with pytest.raises(ModelError, match=r"units\.image is of another kind than vision_cfg"):
        load_clip(str(tmp_path / "pruned"))
