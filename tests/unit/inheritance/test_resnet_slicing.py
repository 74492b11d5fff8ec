from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance import (
    ClipShape,
    HeadWidths,
    ResNetPlan,
    inherit_uniform,
    plan_uniform,
)
from tinyclip_edge.inheritance.plan_types import BlockChannels

HEAD = 16
HEADS = HeadWidths(HEAD, HEAD)


def norm(name, channels):
    state = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
    return {f"{name}.{key}": shape for key, shape in {**state, "num_batches_tracked": ()}.items()}


def convolution(number, outputs, inputs, size):
    return {f"conv{number}.weight": (outputs, inputs, size, size), **norm(f"bn{number}", outputs)}


def resnet_shapes(w, stages, embed, positions=5):
    """CLIP's ResNet by hand: stem, bottlenecks four times as wide outside, attention pool."""
    tower = {
        **convolution(1, w // 2, 3, 3),
        **convolution(2, w // 2, w // 2, 3),
        **convolution(3, w, w // 2, 3),
    }
    incoming = w
    for stage, count in enumerate(stages):
        inner = w * 2**stage
        for block in range(count):
            layers = {
                **convolution(1, inner, incoming, 1),
                **convolution(2, inner, inner, 3),
                **convolution(3, 4 * inner, inner, 1),
            }
            if block == 0:
                layers["downsample.0.weight"] = (4 * inner, incoming, 1, 1)
                layers |= norm("downsample.1", 4 * inner)
            tower |= {f"layer{stage + 1}.{block}.{key}": shape for key, shape in layers.items()}
            incoming = 4 * inner
    pool = {"positional_embedding": (positions, incoming)}
    for name, outputs in (("q", incoming), ("k", incoming), ("v", incoming), ("c", embed)):
        pool |= {f"{name}_proj.weight": (outputs, incoming), f"{name}_proj.bias": (outputs,)}
    tower |= {f"attnpool.{key}": shape for key, shape in pool.items()}
    return {f"visual.{key}": shape for key, shape in tower.items()}


def make_state(width, stages, embed=10, positions=5, seed=0):
    """A ResNet CLIP with one narrow text block."""
    shapes = {
        **resnet_shapes(width, stages, embed, positions),
        "token_embedding.weight": (7, HEAD),
        "positional_embedding": (6, HEAD),
        "text_projection": (HEAD, embed),
        "transformer.resblocks.0.attn.in_proj_weight": (3 * HEAD, HEAD),
        "transformer.resblocks.0.mlp.c_fc.weight": (4 * HEAD, HEAD),
        "logit_scale": (),
    }
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randint(1000, shape, generator=generator)
        if key.endswith("num_batches_tracked")
        else torch.randn(shape, generator=generator)
        for key, shape in shapes.items()
    }


TEACHER = make_state(4, (2, 3, 4, 2))
STUDENT = make_state(2, (1, 1, 2, 2), seed=1)


def run(teacher, student, **options):
    plan = plan_uniform(
        ClipShape.of(teacher, HEADS),
        ClipShape.of(student, HEADS),
        **options,
    )
    return inherit_uniform(teacher, student, plan)


def check(weights, blocks):
    """Every image tensor is the front of the named teacher block's."""
    for key, value in weights.items():
        if not key.startswith("visual."):
            continue
        name = key
        if key.startswith("visual.layer"):
            stage, number, suffix = key.removeprefix("visual.layer").split(".", 2)
            name = f"visual.layer{stage}.{blocks[int(stage) - 1][int(number)]}.{suffix}"
        teacher = TEACHER[name].numpy()
        front = teacher[tuple(slice(0, n) for n in STUDENT[key].shape)]
        np.testing.assert_array_equal(value.numpy(), front, err_msg=key)
        assert value.dtype == STUDENT[key].dtype


def test_shape_is_read_from_the_weights():
    shape = ClipShape.of(TEACHER, HEADS).image
    assert (shape.kind, shape.width, shape.stages, shape.layers) == ("ResNet", 4, (2, 3, 4, 2), 11)
    assert (shape.heads, shape.head_width, shape.positions) == (8, HEAD, 5)


# Every T // S-th block of each stage, by hand.
PUBLISHED = ((0,), (0,), (0, 2), (0, 1))


def test_every_tensor_is_the_published_slice():
    weights, report = run(TEACHER, STUDENT)
    assert list(weights) == list(STUDENT)
    check(weights, PUBLISHED)
    assert report.image.layers == PUBLISHED
    image = sum(t.numel() for key, t in STUDENT.items() if key.startswith("visual."))
    assert report.image.total == image
    assert report.fresh_parameters == 1
    assert "teacher layers [0 | 0 | 0, 2 | 0, 1]" in report.lines()[1]


def test_evenly_takes_the_last_block_of_every_stage_that_has_two():
    weights, report = run(TEACHER, STUDENT, layers="evenly")
    assert report.image.layers == ((0,), (0,), (0, 3), (0, 1))
    check(weights, report.image.layers)


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_key_order_plays_no_part(order):
    keys = sorted(TEACHER)
    if order == "reversed":
        keys.reverse()
    elif order == "shuffled":
        random.Random(0).shuffle(keys)
    weights, _ = run({key: TEACHER[key] for key in keys}, STUDENT)
    check(weights, PUBLISHED)


def test_any_channels_and_heads_can_remain():
    """A plan other than front slices: what is summed or multiplied must be cut alike."""
    front = plan_uniform(ClipShape.of(TEACHER, HEADS), ClipShape.of(STUDENT, HEADS))
    assert isinstance(front.image, ResNetPlan)
    image = ResNetPlan(
        stages=front.image.stages,
        stem=((1,), (0,), (3, 1)),
        inner=tuple(
            (BlockChannels(tuple(range(n, 2 * n)), tuple(range(0, 2 * n, 2))),) * blocks
            for n, blocks in zip((2, 4, 8, 16), (1, 1, 2, 2), strict=True)
        ),
        outer=tuple(tuple(range(1, 2 * n, 2)) for n in (8, 16, 32, 64)),
        heads=(5, 2, 7, 0),
        positions=front.image.positions,
        head_width=HEAD,
    )
    plan = type(front)(image, front.text, front.embed, front.tokens, "by hand")
    weights, _ = inherit_uniform(TEACHER, STUDENT, plan)
    t = {key.removeprefix("visual."): v.numpy() for key, v in TEACHER.items()}
    w = {key.removeprefix("visual."): v.numpy() for key, v in weights.items()}
    np.testing.assert_array_equal(w["conv2.weight"], t["conv2.weight"][:1, 1:2])
    np.testing.assert_array_equal(w["bn3.running_var"], t["bn3.running_var"][[3, 1]])
    first = t["layer1.0.conv1.weight"][2:4][:, [3, 1]]
    np.testing.assert_array_equal(w["layer1.0.conv1.weight"], first)
    shortcut = t["layer2.0.downsample.0.weight"][1::2, 1::2]
    np.testing.assert_array_equal(w["layer2.0.downsample.0.weight"], shortcut)
    np.testing.assert_array_equal(
        w["layer3.1.conv3.weight"], t["layer3.2.conv3.weight"][1::2, 0:16:2]
    )
    second = t["layer3.2.conv2.weight"][0:16:2, 8:16]
    np.testing.assert_array_equal(w["layer3.1.conv2.weight"], second)
    heads = t["attnpool.k_proj.weight"].reshape(8, HEAD, 128)[[5, 2, 7, 0]][..., 1::2]
    np.testing.assert_array_equal(w["attnpool.k_proj.weight"], heads.reshape(64, 64))
    mixed = t["attnpool.c_proj.weight"].reshape(10, 8, HEAD)[:, [5, 2, 7, 0]].reshape(10, 64)
    np.testing.assert_array_equal(w["attnpool.c_proj.weight"], mixed)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (make_state(6, (1, 1, 1, 1)), "image tower: width 6 is more than the teacher's 4"),
        (make_state(2, (1, 4, 1, 1)), "stage 2: blocks 4 is more than the teacher's 3"),
        (make_state(2, (1, 1, 1, 1), embed=11), "embed_dim 11 is more than the teacher's 10"),
        (make_state(2, (1, 1, 1, 1), positions=10), "interpolate the positional embedding first"),
    ],
)
def test_what_does_not_fit_is_named(student, message):
    with pytest.raises(InheritanceError, match=message) as caught:
        run(TEACHER, student)
    assert "\n" not in str(caught.value)


def test_broken_towers_are_refused():
    with pytest.raises(InheritanceError, match="heads are 32 wide in the student, 16"):
        plan_uniform(
            ClipShape.of(TEACHER, HEADS),
            ClipShape.of(STUDENT, HeadWidths(32, HEAD)),
        )
    with pytest.raises(
        InheritanceError, match="pool is 128 wide, which is not a multiple of the head width 24"
    ):
        ClipShape.of(TEACHER, HeadWidths(24, HEAD))
    gap = {k: v for k, v in TEACHER.items() if not k.startswith("visual.layer3.1.")}
    with pytest.raises(InheritanceError, match=r"ResNet stage 3 has blocks \[0, 2, 3\]"):
        ClipShape.of(gap, HEADS)
    stem = {**TEACHER, "visual.conv3.weight": torch.zeros(5, 2, 3, 3)}
    with pytest.raises(InheritanceError, match="pools 128 channels, not 32 times the 5"):
        ClipShape.of(stem, HEADS)
    bare = {k: v for k, v in TEACHER.items() if "attnpool" not in k}
    with pytest.raises(InheritanceError, match=r"no 'visual\.attnpool\.positional_embedding'"):
        ClipShape.of(bare, HEADS)


@pytest.mark.parametrize(
    "key",
    ["attnpool.gate", "layer1.0.bn1.momentum", "layer1.0.se.weight", "conv1.bias", "bn1.momentum"],
)
def test_unknown_tensor_is_named(key):
    with pytest.raises(InheritanceError, match=f"no rule to inherit 'visual.{key}'"):
        run(TEACHER, {**STUDENT, f"visual.{key}": torch.zeros(2)})
