"""Masks on the channels inside a ResNet's blocks: masked = pruned, saved, loaded and exported."""

from __future__ import annotations

import json
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from families import family
from masked_clip import image_features, pixels, random_masks
from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance.gates import ClipGates
from tinyclip_edge.inheritance.masked import MaskedClip
from tinyclip_edge.inheritance.masked_resnet import EmptyBottleneck
from tinyclip_edge.inheritance.prune import slice_moments
from tinyclip_edge.inheritance.sparsity import check_reachable
from tinyclip_edge.models import load_clip, save_local_dir
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_export.towers.factory import image_tower


@pytest.fixture
def clip():
    return family("ResNet")


def blocks_of(clip):
    visual = clip.model.visual
    stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
    return [block for stage in stages for block in stage]


def features_under(clip, neurons, images):
    """Features while channels are multiplied by a mask behind their activation, nothing folded."""
    layers = [act for block in blocks_of(clip) for act in (block.act1, block.act2)]
    with ExitStack() as stack:
        for layer, mask in zip(layers, neurons, strict=True):
            hook = layer.register_forward_hook(
                lambda _, __, out, mask=mask: out * mask[None, :, None, None]
            )
            stack.callback(hook.remove)
        return image_features(clip, images)


def masks_of(units, seed):
    """Random masks; one block reduces to nothing, two convolve nothing, one with a shortcut."""
    masks = random_masks(units, seed, off=0.2 + seed / 5)
    masks.image.neurons[2].zero_()
    masks.image.neurons[7].zero_()
    masks.image.neurons[9].zero_()
    return masks


@pytest.mark.parametrize("seed", range(3))
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
    counts = [int(mask.count_nonzero()) for mask in masks.image.neurons]
    counts[2], counts[6], counts[8] = 1, 0, 0  # nothing reads the last two
    assert result.plan.after.image.neurons == tuple(counts)
    empty = [isinstance(block, EmptyBottleneck) for block in blocks_of(result.clip)]
    assert empty == [False, False, False, True, True, False, False, False]
    save_local_dir(tmp_path / "pruned", result.clip)
    loaded = load_clip(str(tmp_path / "pruned"))
    assert torch.equal(image_features(loaded, images), image_features(result.clip, images))
    with torch.no_grad():
        exported = image_tower(loaded.model)(images)
    np.testing.assert_allclose(exported, expected, atol=1e-5)


def test_masks_of_none_are_the_model_itself(clip):
    images = pixels(clip)
    with torch.no_grad():
        ours = MaskedClip(clip.model, clip_units(clip)).encode_image(images)
    np.testing.assert_allclose(ours, image_features(clip, images), atol=1e-6)


def test_a_pruned_tower_is_pruned_again(clip):
    images = pixels(clip)
    once = prune_clip(clip, masks_of(clip_units(clip), 0)).clip
    masks = random_masks(clip_units(once), 1, off=0.5)
    masks.image.neurons[2].fill_(1.0)  # one channel, of a factor that is 0
    with torch.no_grad():
        masked = MaskedClip(once.model, clip_units(once)).encode_image(images, masks)
    twice = prune_clip(once, masks)
    np.testing.assert_allclose(image_features(twice.clip, images), masked, atol=1e-5)
    assert twice.plan.after.image.neurons[6:10] == (0, 0, 0, 0)
    assert sum(twice.plan.after.image.neurons) < sum(clip_units(once).image.neurons)


def test_what_masks_count_is_what_a_prune_removes(clip):
    units = clip_units(clip)
    inner = ("conv1.", "bn1.", "conv2.", "bn2.", "conv3.")
    counted, others = 0, 0
    for name, parameter in clip.model.visual.named_parameters():
        in_block = name.startswith("layer") and name.split(".", 2)[2].startswith(inner)
        counted += parameter.numel() * in_block
        others += parameter.numel() * (not in_block)
    assert (units.image.prunable, units.image.unmasked) == (counted, others)
    gates = ClipGates(units)
    assert len(gates.image.hidden) == len(gates.image.heads) == 0
    assert gates.image.expected_parameters().item() == pytest.approx(counted, rel=1e-4)
    result = prune_clip(clip, masks_of(units, 1))
    before, after = (
        sum(p.numel() for p in each.model.visual.parameters()) for each in (clip, result.clip)
    )
    assert before - after == units.image.prunable - result.plan.after.image.prunable


def test_gradients_and_statistics_are_of_all_channels(clip):
    units = clip_units(clip)
    gates = ClipGates(units)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.fill_(1.0)
    masks = gates.sample(torch.Generator().manual_seed(0))
    off = masks.image.neurons[0] == 0
    assert off.any()
    clip.model.train()
    norm = clip.model.visual.layer1[0].bn1
    before = norm.running_mean.clone()
    MaskedClip(clip.model, units).encode_image(pixels(clip), masks)[:, 0].sum().backward()
    assert int(gates.image.neurons.grad.count_nonzero()) > 0
    assert {n for n, p in clip.model.visual.named_parameters() if p.grad is None} == set()
    assert (norm.running_mean != before)[off].all()


def test_moments_are_sliced_like_their_weights(clip):
    plan = prune_clip(clip, masks_of(clip_units(clip), 1)).plan
    keys = "visual.layer3.1.conv2.weight", "visual.layer3.0.conv2.weight"
    weights = [clip.model.get_parameter(key).detach().clone() for key in keys]
    moments = {key: {"exp_avg": w} for key, w in zip(keys, weights, strict=True)}
    reduced, convolved = (plan.masks.image.neurons[n].nonzero().flatten() for n in (10, 11))
    sliced = slice_moments(moments, plan)
    assert list(sliced) == [keys[0]]  # the other block has none any more
    assert torch.equal(sliced[keys[0]]["exp_avg"], weights[0][convolved][:, reduced])


def test_equal_shapes_are_refused_before_the_run(clip):
    with pytest.raises(InheritanceError, match=r"works only with open_clip's .* not with a ResNet"):
        check_reachable(clip_units(clip), 0.6, uniform_shapes=True)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda u: u.pop("stages"), r"must hold stages, widths, unmasked"),
        (lambda u: u.update(stages=[2, 2, 2, 1]), r"stages \[2, 2, 2, 1\] .* do not describe 16"),
        (lambda u: u.update(stages=[2, 2, 1, 3]), r"vision_cfg has \[2, 2, 2, 2\] of \[128, 256"),
        (lambda u: u.update(width=16), r"after 16, vision_cfg has .* after 32"),
        (lambda u: u["neurons"].__setitem__(2, 0), r"block layer1\.1 has \d+ channels .* none"),
        (lambda u: u.update(kind="timm FastViT"), r"layers|different kinds"),
        (lambda u: u.update(neurons=[10**6] * 16), r"describe more than 5e\+10 parameters"),
    ],
)
def test_a_false_table_of_units_is_one_line(pruned_folder, tmp_path, edit, message):
    config = json.loads((pruned_folder / "tinyclip_edge_config.json").read_text())
    edit(config["units"]["image"])
    for file in pruned_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tinyclip_edge_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message) as caught:
        load_clip(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def pruned_folder(tmp_path_factory):
    clip = family("ResNet")
    folder = tmp_path_factory.mktemp("resnet") / "pruned"
    save_local_dir(folder, prune_clip(clip, masks_of(clip_units(clip), 0)).clip)
    return folder
