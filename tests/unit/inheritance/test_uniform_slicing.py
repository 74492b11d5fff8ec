from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance import ClipShape, HeadWidths, inherit_uniform, plan_uniform

HEAD = 4
HEADS = HeadWidths(HEAD, HEAD)


def make_state(image, text, embed, vocabulary=11, positions=(5, 7), seed=0):
    """A CLIP state dict by hand; towers are (width, layers), heads of 4, patch 2."""
    generator = torch.Generator().manual_seed(seed)
    state = {"logit_scale": (), "visual.class_embedding": (image[0],)}
    state["visual.conv1.weight"] = (image[0], 3, 2, 2)
    state["visual.positional_embedding"] = (positions[0], image[0])
    state["visual.proj"] = (image[0], embed)
    state["token_embedding.weight"] = (vocabulary, text[0])
    state["positional_embedding"] = (positions[1], text[0])
    state["text_projection"] = (text[0], embed)
    for name, width in (
        ("visual.ln_pre", image[0]),
        ("visual.ln_post", image[0]),
        ("ln_final", text[0]),
    ):
        state[f"{name}.weight"] = state[f"{name}.bias"] = (width,)
    for prefix, (w, layers) in (("visual.transformer", image), ("transformer", text)):
        for i in range(layers):
            block = f"{prefix}.resblocks.{i}"
            shapes = {
                "attn.in_proj_weight": (3 * w, w),
                "attn.in_proj_bias": (3 * w,),
                "attn.out_proj.weight": (w, w),
                "attn.out_proj.bias": (w,),
                "mlp.c_fc.weight": (4 * w, w),
                "mlp.c_fc.bias": (4 * w,),
                "mlp.c_proj.weight": (w, 4 * w),
                "mlp.c_proj.bias": (w,),
                "ln_1.weight": (w,),
                "ln_1.bias": (w,),
                "ln_2.weight": (w,),
                "ln_2.bias": (w,),
            }
            state |= {f"{block}.{key}": shape for key, shape in shapes.items()}
    return {key: torch.randn(shape, generator=generator) for key, shape in state.items()}


TEACHER = make_state((16, 12), (12, 7), 10)
STUDENT = make_state((8, 6), (8, 3), 10, seed=1)
LAYERS = {"visual.": (0, 2, 4, 6, 8, 10), "": (0, 2, 4)}  # as the published code takes them


def run(teacher, student, **options):
    plan = plan_uniform(
        ClipShape.of(teacher, HEADS),
        ClipShape.of(student, HEADS),
        **options,
    )
    return inherit_uniform(teacher, student, plan)


def published_value(key, student):
    """The published slicing rule for one tensor, in numpy and without index lists."""
    prefix = "visual." if key.startswith("visual.") else ""
    shape = student[key].shape
    name = key
    if ".resblocks." in key:
        number = int(key.split("resblocks.")[1].split(".")[0])
        layer = LAYERS[prefix][number]
        name = key.replace(f"resblocks.{number}.", f"resblocks.{layer}.")
    value = TEACHER[name].numpy()
    if "attn.in_proj" in key:
        heads_t, heads_s = value.shape[0] // 3 // HEAD, shape[0] // 3 // HEAD
        viewed = value.reshape(3, heads_t, HEAD, *value.shape[1:])[:, :heads_s]
        if key.endswith("weight"):
            viewed = viewed[..., : shape[1]]
        return viewed.reshape(shape)
    return value[tuple(slice(0, n) for n in shape)]


def test_every_tensor_is_the_published_slice():
    weights, _ = run(TEACHER, STUDENT)
    assert list(weights) == list(STUDENT)
    for key, value in weights.items():
        expected = STUDENT[key] if key == "logit_scale" else published_value(key, STUDENT)
        np.testing.assert_array_equal(value.numpy(), expected, err_msg=key)


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_key_order_plays_no_part(order):
    keys = sorted(TEACHER)  # block 10 before block 2
    if order == "reversed":
        keys.reverse()
    elif order == "shuffled":
        random.Random(0).shuffle(keys)
    expected, _ = run(TEACHER, STUDENT)
    actual, _ = run({key: TEACHER[key] for key in keys}, STUDENT)
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


def test_identical_shape_copies_everything_but_the_scale():
    weights, report = run(TEACHER, make_state((16, 12), (12, 7), 10, seed=2))
    assert report.image.tensors["sliced"] == report.text.tensors["sliced"] == 0
    for key, value in weights.items():
        assert torch.equal(value, TEACHER[key]) == (key != "logit_scale"), key


def test_evenly_takes_first_and_last_block():
    weights, report = run(TEACHER, STUDENT, layers="evenly")
    assert report.image.layers == (0, 2, 4, 7, 9, 11)
    assert report.text.layers == (0, 3, 6)
    last = weights["transformer.resblocks.2.ln_1.weight"]
    assert torch.equal(last, TEACHER["transformer.resblocks.6.ln_1.weight"][:8])


def test_report_accounts_for_every_tensor_and_parameter():
    _, report = run(TEACHER, STUDENT)
    assert [t.key for t in report.tensors] == list(STUDENT)
    total = sum(t.numel() for t in STUDENT.values())
    assert report.inherited_parameters + report.fresh_parameters == total
    assert report.fresh_parameters == 1
    assert [t.key for t in report.tensors if t.origin == "fresh"] == ["logit_scale"]
    image = sum(t.numel() for key, t in STUDENT.items() if key.startswith("visual."))
    assert report.image.total == image
    assert report.text.total == total - image - 1
    assert report.as_dict()["image"]["layers"] == (0, 2, 4, 6, 8, 10)
    assert any("teacher layers [0, 2, 4]" in line for line in report.lines())
    table = report.table()
    assert [str(cell) for cell in table.columns[5].cells] == ["0, 2, 4, 6, 8, 10", "0, 2, 4", ""]
    assert [str(cell) for cell in table.columns[4].cells] == ["0", "0", "1"]


def test_inputs_stay_untouched_and_results_share_no_memory():
    before = {key: value.clone() for key, value in TEACHER.items()}
    weights, _ = run(TEACHER, make_state((16, 12), (12, 7), 10, seed=2))
    for value in weights.values():
        value.add_(1)
    assert all(torch.equal(TEACHER[key], value) for key, value in before.items())


def test_student_dtype_is_preserved():
    half = {key: value.half() for key, value in TEACHER.items()}
    weights, _ = run(half, STUDENT)
    assert {value.dtype for value in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (make_state((20, 6), (8, 3), 10), "image tower: width 20 is more than the teacher's 16"),
        (make_state((8, 13), (8, 3), 10), "image tower: layers 13 is more than the teacher's 12"),
        (make_state((8, 6), (16, 3), 10), "text tower: width 16 is more than the teacher's 12"),
        (make_state((8, 6), (8, 8), 10), "text tower: layers 8 is more than the teacher's 7"),
        (make_state((8, 6), (8, 3), 11), "embed_dim 11 is more than the teacher's 10"),
        (make_state((8, 6), (8, 3), 10, 12), "vocabulary 12 is more than the teacher's 11"),
        (make_state((8, 6), (8, 3), 10, positions=(5, 8)), "context length 8 is more"),
        (make_state((8, 6), (8, 3), 10, positions=(4, 7)), "interpolate the positional"),
    ],
)
def test_what_does_not_fit_is_named(student, message):
    with pytest.raises(InheritanceError, match=message) as caught:
        run(TEACHER, student)
    assert "\n" not in str(caught.value)


def test_other_head_width_is_refused():
    with pytest.raises(InheritanceError, match="heads are 8 wide in the student, 4 in the teacher"):
        plan_uniform(
            ClipShape.of(TEACHER, HeadWidths(4, 4)), ClipShape.of(STUDENT, HeadWidths(8, 8))
        )


def test_width_that_does_not_split_into_heads_is_refused():
    with pytest.raises(
        InheritanceError, match="12 wide, which is not a multiple of the head width 8"
    ):
        ClipShape.of(TEACHER, HeadWidths(8, 8))


def test_other_patch_is_refused():
    student = dict(STUDENT)
    student["visual.conv1.weight"] = torch.zeros(8, 3, 4, 4)
    with pytest.raises(InheritanceError, match="patch size differs: teacher 2, student 4"):
        run(TEACHER, student)


def resnet_state():
    """Text tower of the teacher with as much of a ResNet as its shape is read from."""
    text = {key: value for key, value in TEACHER.items() if not key.startswith("visual.")}
    pool = {
        "positional_embedding": torch.zeros(5, 64),
        "q_proj.weight": torch.zeros(64, 64),
    }
    stages = {f"visual.layer{n}.0.bn3.weight": torch.zeros(1) for n in range(1, 5)}
    stem = {"visual.conv3.weight": torch.zeros(2, 1, 3, 3)}
    return {**text, **stem, **stages, **{f"visual.attnpool.{k}": v for k, v in pool.items()}}


def test_resnet_and_vit_do_not_mix():
    with pytest.raises(InheritanceError, match="a ViT image tower cannot inherit from a ResNet"):
        run(resnet_state(), STUDENT)
    with pytest.raises(InheritanceError, match=r"from a ViT one; choose a ViT student"):
        run(TEACHER, resnet_state())


def test_two_stages_end_where_the_published_ones_do():
    """Depth 12 to 9 to 6 leaves the first six layers, 12 to 6 at once every second one."""
    states = [make_state((8, 2), (8, depth), 10, seed=depth) for depth in (12, 9, 6)]
    nine, _ = run(states[0], states[1])
    twice, _ = run(nine, states[2])
    once, _ = run(states[0], states[2])
    for layer in range(6):
        key = f"transformer.resblocks.{layer}.mlp.c_fc.weight"
        assert torch.equal(twice[key], states[0][key])
        skipped = f"transformer.resblocks.{2 * layer}.mlp.c_fc.weight"
        assert torch.equal(once[key], states[0][skipped])


def test_unknown_tensor_and_missing_block_are_named():
    with pytest.raises(InheritanceError, match=r"no rule to inherit 'visual\.gate'"):
        run(TEACHER, {**STUDENT, "visual.gate": torch.zeros(3)})
    gap = {k: v for k, v in TEACHER.items() if ".resblocks.3." not in k}
    with pytest.raises(InheritanceError, match="not 0, 1, 2"):
        run(gap, STUDENT)
    with pytest.raises(InheritanceError, match=r"no 'visual\.proj'"):
        run({k: v for k, v in TEACHER.items() if k != "visual.proj"}, STUDENT)
