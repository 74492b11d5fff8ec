"""Masks on FastViT's neurons: masked = pruned, and a prune is saved, loaded and exported."""

from __future__ import annotations

import json
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from families import families, family
from masked_clip import image_features, pixels, random_masks
from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance.gates import ClipGates
from tinyclip_edge.inheritance.masked import MaskedClip
from tinyclip_edge.inheritance.prune import slice_moments
from tinyclip_edge.inheritance.sparsity import check_reachable
from tinyclip_edge.models import load_clip, save_local_dir
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_export.towers.factory import image_tower

NAMES = ("MobileCLIP 2", "MobileCLIP 2, five stages")


@pytest.fixture(params=families(NAMES))
def clip(request):
    return family(request.param)


@torch.no_grad()
def features_under(clip, neurons, images):
    """Features while each block's neurons are multiplied by a mask, nothing folded or cut."""
    blocks = [block for stage in clip.model.visual.trunk.stages for block in stage.blocks]
    with ExitStack() as stack:
        for block, mask in zip(blocks, neurons, strict=True):
            hook = block.mlp.fc2.register_forward_pre_hook(
                lambda _, args, mask=mask: (args[0] * mask[None, :, None, None],)
            )
            stack.callback(hook.remove)
        return image_features(clip, images)


def masks_of(units, seed):
    masks = random_masks(units, seed, off=0.2 + seed / 5)
    masks.image.neurons[1].zero_()
    return masks


@pytest.mark.parametrize("seed", range(2))
def test_masked_is_pruned(clip, seed, tmp_path):
    units, images = clip_units(clip), pixels(clip)
    masks = masks_of(units, seed)
    expected = features_under(clip, masks.image.neurons, images)
    assert (expected - image_features(clip, images)).abs().max() > 1e-3
    with torch.no_grad():
        masked = MaskedClip(clip.model, units).encode_image(images, masks)
    np.testing.assert_allclose(masked, expected, atol=1e-5)
    result = prune_clip(clip, masks)
    np.testing.assert_allclose(image_features(result.clip, images), expected, atol=1e-5)
    assert clip_units(result.clip) == result.plan.after
    assert result.plan.after.image.neurons == tuple(
        int(mask.count_nonzero()) for mask in masks.image.neurons
    )
    save_local_dir(tmp_path / "pruned", result.clip)
    loaded = load_clip(str(tmp_path / "pruned"))
    assert torch.equal(image_features(loaded, images), image_features(result.clip, images))
    with torch.no_grad():
        exported = image_tower(loaded.model)(images)
    np.testing.assert_allclose(exported, expected, atol=1e-5)


@pytest.mark.slow
def test_a_pruned_tower_is_pruned_again(clip):
    images, first = pixels(clip), masks_of(clip_units(clip), 0)
    once = prune_clip(clip, first).clip
    masks = random_masks(clip_units(once), 1, off=0.5)
    with torch.no_grad():
        masked = MaskedClip(once.model, clip_units(once)).encode_image(images, masks)
    twice = prune_clip(once, masks)
    np.testing.assert_allclose(image_features(twice.clip, images), masked, atol=1e-5)
    assert twice.plan.after.image.neurons[1] == 0
    assert sum(twice.plan.after.image.neurons) < sum(clip_units(once).image.neurons)


def test_what_masks_count_is_the_neurons():
    clip = family("MobileCLIP 2")
    units = clip_units(clip)
    counted, others = 0, 0
    for name, parameter in clip.model.visual.named_parameters():
        neuron = "mlp.fc1" in name or name.endswith("mlp.fc2.weight")
        counted, others = (
            counted + parameter.numel() * neuron,
            others + parameter.numel() * (not neuron),
        )
    assert (units.image.prunable, units.image.unmasked) == (counted, others)
    gates = ClipGates(units)
    assert len(gates.image.hidden) == len(gates.image.heads) == 0
    assert gates.image.expected_parameters().item() == pytest.approx(counted, rel=1e-4)


def test_gradients_reach_weights_and_gates():
    clip = family("MobileCLIP 2")
    units = clip_units(clip)
    gates = ClipGates(units)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.fill_(1.0)
    masks = gates.sample(torch.Generator().manual_seed(0))
    clip.model.train()
    before = clip.model.visual.trunk.stem[0].conv_kxk[0].bn.running_mean.clone()
    MaskedClip(clip.model, units).encode_image(pixels(clip), masks)[:, 0].sum().backward()
    assert int(gates.image.neurons.grad.count_nonzero()) > 0
    assert {n for n, p in clip.model.visual.named_parameters() if p.grad is None} == set()
    after = clip.model.visual.trunk.stem[0].conv_kxk[0].bn.running_mean
    assert not torch.equal(before, after)  # statistics are of the student that trains


def test_moments_are_sliced_like_their_weights():
    clip = family("MobileCLIP 2")
    units = clip_units(clip)
    plan = prune_clip(clip, masks_of(units, 1)).plan
    key = "visual.trunk.stages.2.blocks.3.mlp.fc1.weight"
    moments = {key: {"exp_avg": clip.model.get_parameter(key).detach().clone()}}
    on = plan.masks.image.neurons[7].nonzero().flatten()  # 2, 2 and 3 blocks lie before it
    assert torch.equal(slice_moments(moments, plan)[key]["exp_avg"], moments[key]["exp_avg"][on])


def test_equal_shapes_are_refused_before_the_run():
    units = clip_units(family("MobileCLIP 2"))
    with pytest.raises(InheritanceError, match=r"only with open_clip's .* not with a timm Fast"):
        check_reachable(units, 0.6, uniform_shapes=True)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda u: u.pop("stages"), r"must hold stages, widths, unmasked"),
        (lambda u: u.update(stages=[2, 2, 4, 1]), r"stages \[2, 2, 4, 1\] .* do not describe 10"),
        (lambda u: u.update(stages=[2, 2, 3, 3]), r"vision_cfg has \[2, 2, 4, 2\] of \[16, 32"),
        (lambda u: u.update(widths=[16, 32, 64, -1]), r"widths must list a whole number above 0"),
        (lambda u: u.update(unmasked="1"), r"unmasked must be a whole number above 0"),
        (
            lambda u: u.update(kind="timm ViT", positions=1),
            r"must hold stages, widths, unmasked in a tower in",
        ),
        (lambda u: u.update(neurons=[10**9] * 10), r"describe more than 5e\+10 parameters"),
    ],
)
def test_a_false_table_of_units_is_one_line(pruned_folder, edit, message):
    path = pruned_folder / "tinyclip_edge_config.json"
    config = json.loads(path.read_text())
    edit(config["units"]["image"])
    folder = pruned_folder.parent / "edited"
    folder.mkdir(exist_ok=True)
    for file in pruned_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / path.name).write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message) as caught:
        load_clip(str(folder))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def pruned_folder(tmp_path_factory):
    clip = family("MobileCLIP 2")
    folder = tmp_path_factory.mktemp("fastvit") / "pruned"
    save_local_dir(folder, prune_clip(clip, masks_of(clip_units(clip), 0)).clip)
    return folder
