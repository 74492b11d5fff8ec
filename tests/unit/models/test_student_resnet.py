from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.models import create_student, inherit_student
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.positions import resize_positions

KEY = "visual.attnpool.positional_embedding"
SMALL = {"vision_cfg": {"width": 8, "layers": [1, 1, 1, 1]}, "text_cfg": {"layers": 1}}


@pytest.fixture
def resnet(toy_teacher, toy_tokenizer_file):
    """Image 64, width 16: 512 channels in 8 heads and 2 x 2 places in the attention pool."""
    config = {
        **toy_teacher.config["model_cfg"],
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "head_width": 64},
    }
    torch.manual_seed(0)
    clip = assemble(config, None, name="resnet", tokenizer_file=toy_tokenizer_file)
    with torch.no_grad():
        for name, tensor in clip.model.visual.state_dict().items():
            if "bn" in name or "downsample.1" in name:  # open_clip leaves trivial norms
                tensor.copy_(torch.rand_like(tensor.float()) + 0.5)
    return clip


def features(clip, size):
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return clip.model.encode_image(pixels).numpy()


def test_a_copy_sees_what_its_teacher_sees(resnet):
    student = create_student({}, resnet)
    assert not np.allclose(features(student, 64), features(resnet, 64), rtol=1e-2)
    report = inherit_student(resnet, student)
    assert report.fresh_parameters == 1
    assert report.image.tensors["sliced"] == 0
    np.testing.assert_array_equal(features(student, 64), features(resnet, 64))


def test_smaller_student_takes_fronts_with_batch_statistics(resnet):
    student = create_student(SMALL, resnet)
    report = inherit_student(resnet, student)
    assert report.image.layers == ((0,), (0,), (0,), (0,))
    assert report.notes == ()
    ours, theirs = student.model.state_dict(), resnet.model.state_dict()
    for key in ("visual.layer2.0.bn3.running_var", "visual.bn1.running_mean"):
        assert torch.equal(ours[key], theirs[key][: len(ours[key])])
    assert student.model.visual.attnpool.num_heads == 4
    assert np.isfinite(features(student, 64)).all()


def test_channels_that_carry_nothing_can_be_cut_away(resnet):
    """Silence the back half of the teacher: its front half alone must then see the same."""
    with torch.no_grad():
        for key, tensor in resnet.model.visual.state_dict().items():
            pooled = "attnpool" in key
            if key.endswith(("weight", "bias")) and tensor.ndim == 1 and not pooled:
                tensor[len(tensor) // 2 :] = 0  # a norm then gives nothing
            elif key.endswith(("attnpool.positional_embedding", "c_proj.weight")):
                tensor[:, tensor.shape[1] // 2 :] = 0
    student = create_student({"vision_cfg": {"width": 8}}, resnet)
    inherit_student(resnet, student)
    np.testing.assert_allclose(features(student, 64), features(resnet, 64), rtol=1e-4, atol=1e-6)


def test_another_image_size_interpolates_the_attention_pool(resnet):
    student = create_student({"vision_cfg": {**SMALL["vision_cfg"], "image_size": 96}}, resnet)
    report = inherit_student(resnet, student)
    assert report.notes == (f"{KEY} interpolated from 5 to 10 positions",)
    # open_clip knows how for ViTs: give it the grid under a ViT's name.
    table = {"visual.positional_embedding": resnet.model.state_dict()[KEY]}
    open_clip.model.resize_pos_embed(
        table, SimpleNamespace(visual=SimpleNamespace(grid_size=(3, 3)))
    )
    expected = table["visual.positional_embedding"][:, :256]
    np.testing.assert_allclose(student.model.state_dict()[KEY], expected, rtol=1e-6)
    assert np.isfinite(features(student, 96)).all()


def test_vit_positions_are_interpolated_as_open_clip_does(toy_teacher):
    for size in (48, [40, 24]):
        student = create_student({"vision_cfg": {"image_size": size}}, toy_teacher)
        expected = dict(toy_teacher.model.state_dict())
        open_clip.model.resize_pos_embed(expected, student.model)
        state, notes = resize_positions(toy_teacher.model, student.model)
        key = "visual.positional_embedding"
        assert len(notes) == 1
        np.testing.assert_allclose(state[key], expected[key], rtol=1e-6, atol=1e-7)
        assert len(toy_teacher.model.state_dict()[key]) == 17


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vision_cfg": {"width": 24}}, "image tower: width 24 is more than the teacher's 16"),
        ({"vision_cfg": {"layers": [1, 3, 1, 1]}}, "stage 2: blocks 3 is more"),
        ({"vision_cfg": {"head_width": 32}}, "heads are 32 wide in the student, 64"),
        (
            {"vision_cfg": {"width": 9}},
            "pool is 288 wide, which is not a multiple of the head width 64",
        ),
        (
            {"vision_cfg": {"layers": 1, "width": 64, "patch_size": 8}},
            "a ViT image tower cannot inherit from a ResNet one; choose a ResNet student",
        ),
    ],
)
def test_mismatch_is_one_clear_line(resnet, config, message):
    student = create_student(config, resnet)
    with pytest.raises(InheritanceError, match=message) as caught:
        inherit_student(resnet, student)
    assert "\n" not in str(caught.value)
