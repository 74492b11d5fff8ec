from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from masked_clip import make_clip, pairs, random_masks
from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance.gates import CLAMP, ClipGates
from tinyclip_edge.inheritance.masked import MaskedClip
from tinyclip_edge.inheritance.prune import load_moments, named_moments, slice_moments
from tinyclip_edge.models import (
    TorchEmbedder,
    count_parameters,
    load_clip,
    newest_run,
    save_local_dir,
    student_folder,
    weights_hash,
)
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_edge.train.tasks.encoders import PairEncoder

CONFIG, WEIGHTS = "tinyclip_edge_config.json", "tinyclip_edge_model.safetensors"


@pytest.fixture
def clip(toy_tokenizer_file):
    return make_clip(toy_tokenizer_file)


@pytest.fixture
def pruned(clip):
    """Layers of different shape, one without heads and one without neurons."""
    masks = random_masks(clip_units(clip), 3)
    masks.image.heads[1].zero_()
    masks.text.neurons[0].zero_()
    return prune_clip(clip, masks)


def random_gates(units, seed, mean):
    gates = ClipGates(units)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.copy_(mean + 2.5 * torch.randn(log_alpha.shape, generator=rng))
    gates.clamp_()
    return gates


def features(model):
    with torch.inference_mode():
        pixels, ids = pairs()
        return model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)


def test_sizes_are_those_of_the_remaining_units(clip, pruned):
    image, text = pruned.plan.after.image, pruned.plan.after.text
    assert image.heads[1] == 0
    assert text.neurons[0] == 0
    # Counted by hand, layer by layer: attention with biases, feed-forward with biases.
    expected = sum(
        3 * a * 8 * (t.width + 1) + a * 8 * t.width + t.width + 2 * i * t.width + i + t.width
        for t in (image, text)
        for a, i in zip(t.heads, t.neurons, strict=True)
    )
    dense = 3 * (4 * 32**2 + 4 * 32 + 2 * 32 * 64 + 32 + 64)
    dense += 2 * (4 * 24**2 + 4 * 24 + 2 * 24 * 48 + 24 + 48)
    assert pruned.sparsity == pytest.approx(1 - expected / dense)
    norms = sum(
        2 * t.width * ((a > 0) + (i > 0))
        for t in (image, text)
        for a, i in zip(t.heads, t.neurons, strict=True)
    )
    outside = image.width * (3 * 8 * 8 + 1 + 5 + 4 + 12) + text.width * (10 + 2 + 12)
    vocabulary = clip.model.token_embedding.weight.shape[0]
    count = count_parameters(pruned.clip.model)
    assert count.encoders == expected + norms + outside
    assert count.token_embedding == vocabulary * text.width
    assert pruned.parameters_after == count.total


def test_pruned_layers_run_on_scaled_dot_product_attention(pruned, monkeypatch):
    real, widths = F.scaled_dot_product_attention, []

    def watched(q, *args, **options):
        widths.append(q.shape[1])
        return real(q, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    features(pruned.clip.model)
    units = pruned.plan.after
    assert widths == [a for a in (*units.image.heads, *units.text.heads) if a]


def test_folder_round_trip(pruned, tmp_path):
    run = tmp_path / "runs" / "small"
    save_local_dir(run / "student", pruned.clip)
    assert {p.name for p in (run / "student").iterdir()} == {CONFIG, WEIGHTS, "tokenizer.json"}
    (run / "events.jsonl").write_text("")
    assert student_folder(run) == run / "student"
    assert newest_run(tmp_path / "runs") == run
    before = torch.get_rng_state()
    for where in (run, run / "student"):
        again = load_clip(str(where))
        assert again.name == "small"
        assert weights_hash(again.model) == weights_hash(pruned.clip.model)
        for ours, theirs in zip(features(again.model), features(pruned.clip.model), strict=True):
            assert torch.equal(ours, theirs)
        assert clip_units(again) == pruned.plan.after
    assert torch.equal(torch.get_rng_state(), before)
    # and once more out of what was loaded
    save_local_dir(tmp_path / "copy", again)
    assert weights_hash(load_clip(str(tmp_path / "copy")).model) == weights_hash(again.model)


def test_half_precision_is_half_the_bytes(pruned, tmp_path):
    save_local_dir(tmp_path / "full", pruned.clip)
    save_local_dir(tmp_path / "half", pruned.clip, half=True)
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "full")]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.06)
    image = features(load_clip(str(tmp_path / "half")).model)[0]
    np.testing.assert_allclose(image.numpy(), features(pruned.clip.model)[0].numpy(), atol=5e-3)


def test_embedder_and_training_encoder_take_a_pruned_model(pruned):
    clip = pruned.clip
    texts = ["a photo of a cat", "red", "blue square circle"]
    embedder = TorchEmbedder(clip)
    assert embedder.spec.encoder_parameters == count_parameters(clip.model).encoders
    ours = embedder.encode_text(texts)
    encoder = PairEncoder(clip)
    ids = clip.tokenizer(texts)
    with torch.inference_mode():
        np.testing.assert_allclose(encoder.encode_text(ids[:, :7]).numpy(), ours, atol=1e-6)
        full = clip.model.encode_text(ids, normalize=True).numpy()
    np.testing.assert_allclose(ours, full, atol=1e-6)
    assert embedder.logit_scale == pytest.approx(clip.logit_scale)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("units"), "no 'units'"),
        (lambda c: c["units"].pop("image"), "must hold image, text"),
        (lambda c: c["units"]["text"].update(width=0), r"units\.text\.width"),
        (lambda c: c["units"]["image"]["heads"].pop(), "heads of 2 layers, neurons of 3"),
        (lambda c: c["units"]["image"].update(heads=[1, "2", 3]), r"units\.image\.heads"),
        (lambda c: c["units"]["image"].update(neurons=[1, 2, 3]), "does not fit its config"),
        (
            lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="resnet18"),
            r"units\.image and vision_cfg are different kinds",
        ),
    ],
)
def test_a_spoilt_config_is_one_line(pruned, tmp_path, change, words):
    save_local_dir(tmp_path / "m", pruned.clip)
    path = tmp_path / "m" / CONFIG
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=words) as caught:
        load_clip(str(tmp_path / "m"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_uniform_shapes_are_an_ordinary_open_clip(toy_tokenizer_file, tmp_path, seed):
    import open_clip

    clip = make_clip(toy_tokenizer_file, seed=seed, layers=4, width=64, mlp_ratio=4.0)
    gates = random_gates(clip_units(clip), seed, mean=1.0)
    result = prune_clip(clip, gates, uniform_shapes=True)
    # as large as the gates ask for, within a point
    free = prune_clip(clip, gates)
    assert result.sparsity == pytest.approx(free.sparsity, abs=0.01)
    for tower in (result.plan.after.image, result.plan.after.text):
        assert len(set(tower.heads)) == len(set(tower.neurons)) == 1
        assert tower.heads[0] * tower.head_width == tower.width
    assert "units" not in result.clip.config
    pixels, ids = pairs()
    masked = MaskedClip(clip.model, clip_units(clip))
    with torch.inference_mode():
        image, text, _ = masked(pixels, ids, result.plan.masks)
    save_local_dir(tmp_path / "m", result.clip)
    assert (tmp_path / "m" / "open_clip_config.json").is_file()
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'm'}")
    for ours, theirs in zip(features(model.eval()), (image, text), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)


def test_uniform_shapes_follow_the_gates(toy_tokenizer_file):
    clip = make_clip(toy_tokenizer_file, layers=4, width=64, mlp_ratio=4.0)
    gates = ClipGates(clip_units(clip))
    gates.clamp_()
    with torch.no_grad():  # half the neurons of the image tower are not wanted, all else is
        for neurons in gates.image.neurons_by_layer():
            neurons[::2] = -CLAMP
    result = prune_clip(clip, gates, uniform_shapes=True)
    after = result.plan.after
    assert after.text == clip_units(clip).text
    assert (after.image.width, after.image.heads) == (64, (8,) * 4)
    # 128 of 256 are at the lower clamp, each of them off with 0.953
    assert after.image.neurons == (256 - 122,) * 4
    for units in result.plan.masks.image.neurons:
        assert (units[1::2] > 0).all()


def test_nothing_learnt_with_uniform_shapes_keeps_everything(clip):
    gates = ClipGates(clip_units(clip))
    gates.clamp_()
    assert prune_clip(clip, gates, uniform_shapes=True).plan.after == clip_units(clip)


def test_uniform_shapes_after_a_removed_layer_are_refused(pruned):
    gates = ClipGates(clip_units(pruned.clip))
    with pytest.raises(InheritanceError, match="image tower: an earlier stage removed all heads"):
        prune_clip(pruned.clip, gates, uniform_shapes=True)


def test_sparsity_of_later_stages_counts_from_the_dense_model(clip):
    units = clip_units(clip)
    first = prune_clip(clip, random_gates(units, 0, mean=0.5))
    gates = ClipGates(clip_units(first.clip), prunable=units.prunable)
    gates.clamp_()
    # open gates ask for what is there already
    assert float(gates.sparsity().detach()) == pytest.approx(first.sparsity, abs=0.02)
    assert prune_clip(first.clip, gates).sparsity == pytest.approx(first.sparsity)


def test_moments_are_sliced_with_their_weights(clip, pruned):
    optimizer = torch.optim.AdamW(clip.model.parameters(), lr=1e-3)
    for seed in range(2):
        optimizer.zero_grad()
        pixels, ids = pairs(seed=seed)
        masked = MaskedClip(clip.model, clip_units(clip))
        image, text, scale = masked(pixels, ids, pruned.plan.masks)
        (scale * (image * text).sum()).backward()
        optimizer.step()
    moments = named_moments(optimizer, clip.model.named_parameters())
    sliced = slice_moments(moments, pruned.plan)
    assert set(sliced) == {name for name, _ in pruned.clip.model.named_parameters()}
    hidden = pruned.plan.masks.image.hidden.nonzero().flatten()
    heads = pruned.plan.masks.image.heads[2].nonzero().flatten().tolist()
    rows = [which * 32 + head * 8 + i for which in range(3) for head in heads for i in range(8)]
    key = "visual.transformer.resblocks.2.attn.in_proj_weight"
    for moment in ("exp_avg", "exp_avg_sq"):
        expected = moments[key][moment].numpy()[np.ix_(rows, hidden.numpy())]
        np.testing.assert_array_equal(sliced[key][moment].numpy(), expected)
    assert float(sliced[key]["step"]) == 2
    fresh = torch.optim.AdamW(pruned.clip.model.parameters(), lr=1e-3)
    loaded = load_moments(fresh, pruned.clip.model.named_parameters(), sliced)
    assert loaded == len(sliced)
    for parameter in pruned.clip.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    fresh.step()
    state = fresh.state[pruned.clip.model.get_parameter(key)]
    np.testing.assert_allclose(
        state["exp_avg"].numpy(), 0.9 * sliced_before(moments, key, rows, hidden) + 0.1, atol=1e-6
    )
    assert float(state["step"]) == 3


def sliced_before(moments, key, rows, hidden):
    return moments[key]["exp_avg"].numpy()[np.ix_(rows, hidden.numpy())]


def test_moments_of_another_shape_are_refused(clip, pruned):
    optimizer = torch.optim.AdamW(pruned.clip.model.parameters(), lr=1e-3)
    moments = {"visual.proj": {"exp_avg": torch.zeros(3, 3)}}
    with pytest.raises(InheritanceError, match=r"exp_avg of 'visual\.proj' is \[3, 3\]"):
        load_moments(optimizer, pruned.clip.model.named_parameters(), moments)


def test_what_cannot_be_masked_is_one_line(clip, toy_tokenizer_file):
    from tinyclip_edge.models.assemble import assemble

    model_cfg = clip.config["model_cfg"]
    vision = {**model_cfg["vision_cfg"], "attentional_pool": "parallel", "attn_pooler_heads": 1}
    two_pools = {**model_cfg, "vision_cfg": vision}
    network = assemble(two_pools, None, name="two pools", tokenizer_file=toy_tokenizer_file)
    with pytest.raises(InheritanceError, match="two attention pools, cannot be masked; inherit"):
        clip_units(network)
    masks = random_masks(clip_units(clip), 0)
    masks.text.hidden.zero_()
    with pytest.raises(InheritanceError, match="text tower: every hidden channel is off"):
        prune_clip(clip, masks)
    with pytest.raises(InheritanceError, match="uniform_shapes needs gates"):
        prune_clip(clip, random_masks(clip_units(clip), 0), uniform_shapes=True)
    units = clip_units(clip)
    other = replace(units, image=replace(units.image, width=16))
    with pytest.raises(InheritanceError, match="gates do not fit its shape"):
        prune_clip(clip, ClipGates(other))
