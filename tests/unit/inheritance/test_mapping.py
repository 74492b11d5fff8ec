"""Mappings of weights: what they start as, what they make of the teacher's, what they refuse."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance import ClipShape, HeadWidths, inherit_uniform, plan_uniform
from tinyclip_edge.inheritance.mapping import WeightMapping, check_mappable, map_axis

HEAD = 4
BLOCK = {
    "attn.in_proj_weight": (3, 1), "attn.in_proj_bias": (3,), "attn.out_proj.weight": (1, 1),
    "attn.out_proj.bias": (1,), "mlp.c_fc.weight": (4, 1), "mlp.c_fc.bias": (4,),
    "mlp.c_proj.weight": (1, 4), "mlp.c_proj.bias": (1,), "ln_1.weight": (1,), "ln_1.bias": (1,),
    "ln_2.weight": (1,), "ln_2.bias": (1,), "ls_1.gamma": (1,),
}  # fmt: skip


def clip_state(image, text, embed, seed, vocabulary=11, positions=(5, 7)):
    """Random weights of a CLIP whose towers are (width, layers); patches of 2 pixels."""
    shapes = {
        "logit_scale": (),
        "visual.class_embedding": (image[0],),
        "visual.conv1.weight": (image[0], 3, 2, 2),
        "visual.positional_embedding": (positions[0], image[0]),
        "visual.proj": (image[0], embed),
        "token_embedding.weight": (vocabulary, text[0]),
        "positional_embedding": (positions[1], text[0]),
        "text_projection": (text[0], embed),
    }
    for norm, width in (("visual.ln_pre", image), ("visual.ln_post", image), ("ln_final", text)):
        shapes |= {f"{norm}.{part}": (width[0],) for part in ("weight", "bias")}
    for prefix, (width, layers) in (("visual.", image), ("", text)):
        for layer in range(layers):
            block = f"{prefix}transformer.resblocks.{layer}."
            for name, factors in BLOCK.items():
                shapes[block + name] = tuple(factor * width for factor in factors)
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


TEACHER = clip_state((16, 5), (12, 4), 10, seed=0)
STUDENT = clip_state((8, 2), (8, 2), 6, seed=1, positions=(5, 4))


def shapes(teacher=TEACHER, student=STUDENT, head=HEAD):
    heads = HeadWidths(head, head)
    return ClipShape.of(teacher, heads), ClipShape.of(student, heads)


def scattered_plan(seed=0):
    """A plan of arbitrary units, other ones in each layer."""
    chance = random.Random(seed)

    def some(of, count):
        return tuple(sorted(chance.sample(range(of), count)))

    plan = plan_uniform(*shapes(), layers="evenly")
    towers = {}
    for tower, (width, layers) in {"image": (16, 5), "text": (12, 4)}.items():
        towers[tower] = replace(
            getattr(plan, tower),
            layers=some(layers, 2),
            channels=some(width, 8),
            heads=tuple(some(width // HEAD, 2) for _ in range(2)),
            neurons=tuple(some(4 * width, 32) for _ in range(2)),
        )
    return replace(plan, **towers, embed=some(10, 6))


@pytest.fixture
def plan():
    return scattered_plan()


@pytest.fixture
def mapping(plan):
    return WeightMapping(TEACHER, STUDENT, plan)


def test_the_start_is_the_selection_bit_for_bit(plan, mapping):
    selected, _ = inherit_uniform(TEACHER, STUDENT, plan)
    weights = mapping()
    assert set(weights) == set(STUDENT) - {"logit_scale"}
    assert set(mapping.keys) == set(weights)
    for key, weight in weights.items():
        assert torch.equal(weight, selected[key]), key
    assert mapping.spread() == {"width": 0.0, "depth": 0.0}


def test_two_by_two_by_hand():
    """[[1, 2], [3, 4]] and [[5, 6], [7, 8]], half of each: [[3, 4], [5, 6]].

    Rows by [1, 0.5] make [5.5, 7], and that by [1, -1] is -1.5.
    """
    layers = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    mixed = torch.tensordot(torch.tensor([[0.5, 0.5]]), layers, dims=1)
    assert mixed.tolist() == [[[3.0, 4.0], [5.0, 6.0]]]
    rows = map_axis(mixed, 1, torch.tensor([[[1.0, 0.5]]]))
    assert rows.tolist() == [[[5.5, 7.0]]]
    assert map_axis(rows, 2, torch.tensor([[[1.0, -1.0]]])).tolist() == [[[-1.5]]]


def test_a_whole_mapping_of_one_unit_by_hand():
    """One channel, head and neuron left of two, one layer of two; every factor is set."""
    teacher = clip_state((2, 2), (2, 2), 2, seed=2)
    student = clip_state((1, 1), (1, 1), 1, seed=3)
    block = "visual.transformer.resblocks."
    values = {0: [[1.0, 2.0], [3.0, 4.0]], 1: [[5.0, 6.0], [7.0, 8.0]]}
    for layer, value in values.items():
        rows = torch.zeros(8, 2)
        rows[:2] = torch.tensor(value)
        teacher[f"{block}{layer}.mlp.c_fc.weight"] = rows
        teacher[f"{block}{layer}.ln_2.weight"] = torch.tensor([10.0 + layer, 20.0 + layer])
    mapping = WeightMapping(
        teacher, student, plan_uniform(*shapes(teacher, student, head=1), layers="evenly")
    )
    with torch.no_grad():
        mapping.depth["image_mlp_c_fc"].copy_(torch.tensor([[0.5, 0.5]]))
        mapping.depth["image_ln_2"].copy_(torch.tensor([[0.75, 0.25]]))
        mapping.width["image_neurons_out"].zero_()
        mapping.width["image_neurons_out"][0, 0, :2] = torch.tensor([1.0, 0.5])
        mapping.width["image_channels_in"].copy_(torch.tensor([[[1.0, -1.0]]]))
    weights = mapping()
    assert weights[f"{block}0.mlp.c_fc.weight"][0].tolist() == [-1.5]
    assert weights[f"{block}0.ln_2.weight"].tolist() == [10.25]  # 0.75 * 10 + 0.25 * 11


def test_random_factors_are_the_formula_in_float64(plan, mapping):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for factor in mapping.parameters():
            factor.copy_(torch.randn(factor.shape, generator=generator))
    weights = {key: weight.detach().numpy() for key, weight in mapping().items()}
    width = {name: factor.detach().double().numpy() for name, factor in mapping.width.items()}
    depth = {name: factor.detach().double().numpy() for name, factor in mapping.depth.items()}
    teacher = {key: value.double().numpy() for key, value in TEACHER.items()}

    def mixed(tower, prefix, layer, module, name):
        blocks = f"{prefix}transformer.resblocks."
        coefficients = depth[f"{tower}_{module}"][layer]
        return sum(c * teacher[f"{blocks}{k}.{name}"] for k, c in enumerate(coefficients))

    def same(key, expected):
        np.testing.assert_allclose(weights[key], expected, rtol=1e-4, atol=1e-3, err_msg=key)

    for tower, prefix in (("image", "visual."), ("text", "")):
        out, into = (width[f"{tower}_channels_{side}"][0] for side in ("out", "in"))
        channels = list(getattr(plan, tower).channels)
        for layer in range(2):
            block = f"{prefix}transformer.resblocks.{layer}."
            attended, read = (width[f"{tower}_attended_{s}"][layer] for s in ("out", "in"))
            neurons, used = (width[f"{tower}_neurons_{s}"][layer] for s in ("out", "in"))
            qkv = mixed(tower, prefix, layer, "attn_in_proj", "attn.in_proj_weight")
            parts = [attended @ part @ into.T for part in np.split(qkv, 3)]
            same(f"{block}attn.in_proj_weight", np.concatenate(parts))
            bias = mixed(tower, prefix, layer, "attn_in_proj", "attn.in_proj_bias")
            same(
                f"{block}attn.in_proj_bias",
                np.concatenate([attended @ part for part in np.split(bias, 3)]),
            )
            value = mixed(tower, prefix, layer, "attn_out_proj", "attn.out_proj.weight")
            same(f"{block}attn.out_proj.weight", out @ value @ read.T)
            value = mixed(tower, prefix, layer, "mlp_c_fc", "mlp.c_fc.weight")
            same(f"{block}mlp.c_fc.weight", neurons @ value @ into.T)
            value = mixed(tower, prefix, layer, "mlp_c_proj", "mlp.c_proj.weight")
            same(f"{block}mlp.c_proj.weight", out @ value @ used.T)
            value = mixed(tower, prefix, layer, "mlp_c_proj", "mlp.c_proj.bias")
            same(f"{block}mlp.c_proj.bias", out @ value)
            same(f"{block}ln_1.bias", mixed(tower, prefix, layer, "ln_1", "ln_1.bias")[channels])
            same(f"{block}ls_1.gamma", mixed(tower, prefix, layer, "ls_1", "ls_1.gamma")[channels])
    image, text, embed = "image_channels", "text_channels", width["embed"][0]
    patch = np.einsum("st,tchw->schw", width[f"{image}_out"][0], teacher["visual.conv1.weight"])
    same("visual.conv1.weight", patch)
    same("visual.class_embedding", width[f"{image}_out"][0] @ teacher["visual.class_embedding"])
    same("visual.proj", width[f"{image}_in"][0] @ teacher["visual.proj"] @ embed.T)
    same("text_projection", width[f"{text}_in"][0] @ teacher["text_projection"] @ embed.T)
    same("token_embedding.weight", teacher["token_embedding.weight"] @ width[f"{text}_out"][0].T)
    same("positional_embedding", teacher["positional_embedding"][:4] @ width[f"{text}_out"][0].T)
    same("visual.ln_post.weight", teacher["visual.ln_post.weight"][list(plan.image.channels)])


def test_units_of_norms_are_restored_with_the_factors(mapping):
    """Another measurement of importance must not change what a resumed mapping makes."""
    other = WeightMapping(TEACHER, STUDENT, scattered_plan(seed=1))
    other.load_state_dict(mapping.state_dict())
    ours, theirs = mapping(), other()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not any("teacher" in name for name in mapping.state_dict())


def test_spread_is_the_share_that_is_not_from_the_main_source(mapping):
    with torch.no_grad():
        for factor in mapping.width.values():
            factor.zero_()
            factor[..., :2] = torch.tensor([3.0, 1.0])
        for factor in mapping.depth.values():
            factor.fill_(1.0)
    spread = mapping.spread()
    assert spread["width"] == pytest.approx(0.1)  # 1 of 9 + 1
    # the image tower has 7 factors of 5 layers, the text tower of 4
    assert spread["depth"] == pytest.approx((0.8 + 0.75) / 2)


def test_a_table_of_other_tokens_stays_as_it_is(plan):
    mapping = WeightMapping(TEACHER, STUDENT, replace(plan, tokens=()))
    assert set(STUDENT) - set(mapping.keys) == {"logit_scale", "token_embedding.weight"}


def test_other_kinds_are_refused_in_one_line():
    resnet = {key: value for key, value in TEACHER.items() if not key.startswith("visual.")}
    resnet["visual.layer1.0.bn3.weight"] = torch.zeros(1)
    with pytest.raises(InheritanceError) as caught:
        check_mappable(resnet, ("image", "text"))
    check_mappable(resnet, ("text",))  # beside a fresh or a frozen image tower
    assert str(caught.value) == (
        "the image tower is a ResNet, whose weights cannot be mapped (ViT, timm ViT, open_clip "
        "text transformer can be); set inherit.plan to evenly"
    )
