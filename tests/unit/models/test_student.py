from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.models import create_student, inherit_student

SMALL = {"vision_cfg": {"width": 64, "layers": 2}, "text_cfg": {"width": 64, "layers": 2}}


def test_student_takes_what_it_does_not_give(toy_teacher):
    student = create_student(SMALL, toy_teacher)
    config, teacher = student.config["model_cfg"], toy_teacher.config["model_cfg"]
    assert config["embed_dim"] == teacher["embed_dim"]
    for key in ("image_size", "patch_size", "head_width"):
        assert config["vision_cfg"][key] == teacher["vision_cfg"][key]
    for key in ("context_length", "vocab_size"):
        assert config["text_cfg"][key] == teacher["text_cfg"][key]
    assert config["text_cfg"]["heads"] == 1
    assert student.config["preprocess_cfg"] == toy_teacher.config["preprocess_cfg"]
    assert torch.equal(student.tokenizer(["a cat"]), toy_teacher.tokenizer(["a cat"]))
    assert student.weights_file is None


def test_student_is_seeded_by_the_caller(toy_teacher):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(create_student(SMALL, toy_teacher).model.visual.proj.detach())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_own_image_size_and_context(toy_teacher):
    config = {
        "vision_cfg": {"width": 64, "layers": 2, "image_size": 48},
        "text_cfg": {"width": 64, "layers": 2, "context_length": 8},
    }
    student = create_student(config, toy_teacher)
    assert student.config["preprocess_cfg"]["size"] == 48
    assert student.tokenizer(["a photo of a cat and a bicycle"]).shape == (1, 8)
    report = inherit_student(toy_teacher, student)
    assert report.notes == ("visual.positional_embedding interpolated from 17 to 37 positions",)
    # Class position as it was; a text position is a front row.
    teacher, ours = toy_teacher.model.state_dict(), student.model.state_dict()
    key = "visual.positional_embedding"
    assert torch.equal(ours[key][0], teacher[key][0, :64])
    assert torch.equal(ours["positional_embedding"], teacher["positional_embedding"][:8, :64])
    # Bicubic interpolation keeps the mean of a grid roughly and its corners' order exactly.
    grid = teacher[key][1:, :64].reshape(4, 4, 64).mean((0, 1))
    np.testing.assert_allclose(ours[key][1:].mean(0), grid, atol=0.05)


def test_interpolation_keeps_a_constant_grid(toy_teacher):
    toy_teacher.model.visual.positional_embedding.data[1:] = 0.25
    config = {"vision_cfg": {"width": 64, "layers": 2, "image_size": 64}, "text_cfg": {}}
    student = create_student(config, toy_teacher)
    inherit_student(toy_teacher, student)
    grid = student.model.visual.positional_embedding.detach()[1:]
    assert grid.shape == (64, 64)
    np.testing.assert_allclose(grid, 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quick_gelu": True}, "activation differs: teacher GELU, student QuickGELU"),
        ({"vision_cfg": {"pool_type": "avg"}}, "vision_cfg.pool_type differs"),
        ({"text_cfg": {"no_causal_mask": True}}, "text_cfg.no_causal_mask differs"),
        ({"vision_cfg": {"width": 192}}, "image tower: width 192 is more than the teacher's 128"),
        ({"vision_cfg": {"layers": 5}}, "image tower: layers 5 is more than the teacher's 4"),
        ({"text_cfg": {"layers": 4}}, "text tower: layers 4 is more than the teacher's 3"),
        ({"embed_dim": 65}, "embed_dim 65 is more than the teacher's 64"),
        ({"vision_cfg": {"head_width": 32}}, "heads are 32 wide in the student, 64 in the teacher"),
        ({"text_cfg": {"heads": 4}}, "text tower: heads are 32 wide"),
        ({"text_cfg": {"context_length": 20}}, "context length 20 is more"),
        (
            {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32}},
            "a ResNet image tower cannot inherit from a ViT one",
        ),
    ],
)
def test_mismatch_is_one_clear_line(toy_teacher, config, message):
    student = create_student(config, toy_teacher)
    before = {k: v.clone() for k, v in student.model.state_dict().items()}
    with pytest.raises(InheritanceError, match=message) as caught:
        inherit_student(toy_teacher, student)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in student.model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("starter-5O", "did you mean 'starter-50'"),
        ({"vision_cfg": {"wide": 1}}, "unknown key 'wide'"),
        ({"vision_cfg": {"width": 100}}, "100 is not a multiple of head_width 64"),
        ({"text_cfg": {"width": 96}}, None),
        ({"vision_cfg": 3}, "must be tables"),
        ({"visoin_cfg": {}}, "did you mean 'vision_cfg'"),
    ],
)
def test_unusable_student(toy_teacher, model, message):
    if message is None:  # 96 holds one head of 64: open_clip would make it 96 wide
        with pytest.raises(InheritanceError, match="heads are 96 wide"):
            inherit_student(toy_teacher, create_student(model, toy_teacher))
        return
    with pytest.raises(ModelError, match=message):
        create_student(model, toy_teacher)


def test_teacher_is_unchanged(toy_teacher):
    before = {k: v.clone() for k, v in toy_teacher.model.state_dict().items()}
    student = create_student(SMALL, toy_teacher)
    inherit_student(toy_teacher, student)
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.add_(1)
    assert all(torch.equal(v, before[k]) for k, v in toy_teacher.model.state_dict().items())


def test_activation_agrees_for_a_quick_gelu_teacher(toy_teacher):
    toy_teacher.config["model_cfg"]["quick_gelu"] = True
    student = create_student(SMALL, toy_teacher)
    assert student.config["model_cfg"]["quick_gelu"] is True
    assert inherit_student(toy_teacher, student).fresh_parameters == 1
