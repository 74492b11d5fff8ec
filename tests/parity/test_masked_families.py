"""Masks on today's families: masked = pruned, and a prune is saved, loaded and exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from families import CONVOLUTIONS, ENCODERS, EVERY, families, family
from masked_clip import random_masks
from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance.gates import ClipGates, ClipMasks, TowerMasks
from tinyclip_edge.inheritance.masked import MaskedClip
from tinyclip_edge.inheritance.masked_encoder import relative_buckets
from tinyclip_edge.inheritance.sparsity import check_reachable
from tinyclip_edge.models import create_student, load_clip, save_local_dir
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_export.towers.factory import image_tower, text_tower

# Masks in convolutions are of another kind: test_masked_fastvit.py, test_masked_resnet.py.
NAMES = [name for name in EVERY if name not in ("ViT", *CONVOLUTIONS)]
NAMES += ["MobileCLIP-B", "ViTamin", "CoCa"]
QUICK = ("SigLIP 2", "EVA02", "mT5", "CoCa")
BLOCKS = (
    *("transformer.resblocks.", "trunk.blocks.", "transformer.encoder.layer."),
    *("transformer.block.", "transformer.layers."),
)


def inputs(clip):
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(3, 3, clip.image_size, clip.image_size, generator=generator)
    ids = torch.randint(1, clip.vocabulary, (3, clip.context_length), generator=generator)
    ids[1, 5:] = 0
    return pixels, ids


@torch.no_grad()
def features(model, pixels, ids):
    return model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)


@pytest.fixture(params=families(NAMES, QUICK))
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
    masks.text.heads[0].zero_()
    masks.text.neurons[3].zero_()
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
        and not any(other in name.lower() for other in ("norm", "ln_", "ls", "relative"))
    )
    # EVA02 has no bias on its keys, and none that the count knows.
    names = {name for name, _ in clip.model.named_parameters()}
    key = "visual.trunk.blocks.0.attn.k_proj."
    without = f"{key}weight" in names and f"{key}bias" not in names
    missing = sum(units.image.heads) * units.image.head_width if without else 0
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
    with pytest.raises(ModelError, match=r"units\.image and vision_cfg are different kinds"):
        load_clip(str(tmp_path / "pruned"))


@pytest.mark.parametrize("name", ["SigLIP 2", "mT5"])
def test_equal_layers_of_other_libraries_are_refused_before_the_run(name):
    units = clip_units(family(name))
    check_reachable(units, 0.9)
    with pytest.raises(InheritanceError, match="uniform_shapes works only with open_clip's own"):
        check_reachable(units, 0.9, uniform_shapes=True)


@pytest.mark.parametrize("name", families(["ViT", "XLM-R", "mT5", "NLLB"]))
def test_a_text_tower_of_another_kind_than_its_units_is_refused(name, tmp_path):
    clip = family(name)
    pruned = prune_clip(clip, random_masks(clip_units(clip), 1)).clip
    kind = "T5 text encoder" if name == "NLLB" else "M2M-100 text encoder"
    pruned.config["units"]["text"]["kind"] = kind
    save_local_dir(tmp_path / "pruned", pruned)
    with pytest.raises(ModelError, match=r"units\.text (is a|and text_cfg are different)") as error:
        load_clip(str(tmp_path / "pruned"))
    assert "\n" not in str(error.value)


def alternating(count, kept):
    """Factors of which ``kept`` units, neither the first nor in a row, are 1."""
    factors = torch.zeros(count)
    factors[torch.linspace(1, count - 1, kept).long()] = 1.0
    return factors


@pytest.mark.parametrize("name", families(ENCODERS, QUICK))
def test_a_prune_to_equal_layers_is_an_encoder_of_transformers(name):
    """The library's own modules, built in the pruned size, compute the same."""
    clip = family(name)
    units = clip_units(clip)
    width = 2 * units.text.head_width  # of two heads, which then fill it
    text = TowerMasks(
        alternating(units.text.width, width),
        tuple(alternating(count, 2) for count in units.text.heads),
        tuple(alternating(count, 40) for count in units.text.neurons),
    )
    opened = random_masks(units, 0, off=0.0).image
    pruned = prune_clip(clip, ClipMasks(opened, text)).clip
    sizes = {"width": width, "heads": 2, "mlp_ratio": 40 / width}
    ordinary = create_student({"text_cfg": sizes}, clip)
    state, encoder = pruned.model.text.transformer.state_dict(), ordinary.model.text.transformer
    encoder.load_state_dict({key: state[key] for key in encoder.state_dict()})
    ordinary.model.text.proj = pruned.model.text.proj
    ids = clip.tokenizer(["a red bicycle", "the cat", "a photo of a house in the rain at night"])
    with torch.no_grad():
        ours = pruned.model.encode_text(ids, normalize=True)
        theirs = ordinary.model.encode_text(ids, normalize=True)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("length", [2, 77, 300])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 16), (64, 200)])
def test_rows_of_relative_positions_are_those_of_transformers(length, buckets, distance):
    from transformers import MT5Config
    from transformers.models.mt5.modeling_mt5 import MT5Attention

    config = MT5Config(
        d_model=4, d_kv=4, num_heads=1, relative_attention_num_buckets=buckets,
        relative_attention_max_distance=distance,
    )  # fmt: skip
    attention = MT5Attention(config, has_relative_attention_bias=True)
    with torch.no_grad():
        attention.relative_attention_bias.weight.copy_(torch.arange(buckets)[:, None])
        rows = attention.compute_bias(length, length)[0, 0]
    assert torch.equal(relative_buckets(length, buckets, distance), rows.long())
