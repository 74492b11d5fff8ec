"""Shapes of teachers of every kind: hand-computed sizes, and students that inherit."""

from __future__ import annotations

import pytest
import torch

from families import family
from tinyclip_edge.errors import ModelError
from tinyclip_edge.families.siblings import SIBLINGS
from tinyclip_edge.models import create_student, inherit_student
from tinyclip_edge.models.cost import model_cost
from tinyclip_edge.tailoring.fastvit_tower import TeacherFastVit
from tinyclip_edge.tailoring.resnet_tower import TeacherResNet
from tinyclip_edge.tailoring.shapes import ImageShape
from tinyclip_edge.tailoring.tower_kinds import teacher_tower

RN50 = TeacherResNet(ImageShape((3, 4, 6, 3), 64, 0, 224), embed_dim=1024, width_unit=2, stride=32)
MCI0 = TeacherFastVit(
    ImageShape((2, 6, 10, 2), 64, 3.0, 256), 512, 4, 32, widths=(64, 128, 256, 512),
    ratios=(3.0,) * 4, attends=(False, False, False, True), final_ratio=2, squeezed=1 / 16,
)  # fmt: skip
IMAGE_KINDS = (
    *("ViT", "SigLIP 2", "PE-Core", "EVA02", "CLIPA", "CoCa", "ResNet"),
    *("MobileCLIP 2", "MobileCLIP 2, five stages", "MobileCLIP-B", "ViTamin"),
)


def test_stages_of_a_resnet_lose_the_same_share():
    shapes = RN50.shapes()
    assert shapes[0] == RN50.shape and len(shapes) == 5 * 5 * 3
    depths = {(3, 4, 6, 3), (2, 3, 4, 2), (1, 2, 3, 1), (1, 1, 2, 1), (1, 1, 1, 1)}
    assert {shape.layers for shape in shapes} == depths
    assert {shape.width for shape in shapes} == {64, 48, 32, 24, 16}
    assert {shape.image_size for shape in shapes} == {224, 160, 96}
    last = shapes[-1]
    assert (last.name, str(last)) == (
        "L1.1.1.1-W16-S96",
        "1+1+1+1 layers, width 16, 96 pixels",
    )
    assert RN50.settings(last) == {"layers": [1, 1, 1, 1], "width": 16, "image_size": 96}
    assert RN50.settings(RN50.shape) == {}
    assert RN50.shape.covers(last) and not last.covers(RN50.shape)


def test_a_resnet_by_hand():
    """One block a stage, 16 wide, 96 pixels: 48 after the stem, then 24, 24, 12, 6 and 3."""
    shape = ImageShape((1, 1, 1, 1), 16, 0, 96)
    stem = 27 * 8 + 9 * 8 * 8 + 9 * 8 * 16
    blocks = [
        # first convolution, second, third, shortcut
        (16 * 16, 9 * 16 * 16, 16 * 64, 16 * 64),
        (64 * 32, 9 * 32 * 32, 32 * 128, 64 * 128),
        (128 * 64, 9 * 64 * 64, 64 * 256, 128 * 256),
        (256 * 128, 9 * 128 * 128, 128 * 512, 256 * 512),
    ]
    pool = 10 * 512 + 3 * 512 * 512 + 512 * 1024
    assert RN50.parameters(shape) == stem + sum(map(sum, blocks)) + pool
    sides = [(24, 24), (24, 12), (12, 6), (6, 3)]
    convolved = sum(
        (one + two) * before**2 + (three + four) * after**2
        for (one, two, three, four), (before, after) in zip(blocks, sides, strict=True)
    )
    pooled = 512 * 512 + 2 * 10 * 512 * 512 + 2 * 10 * 512 + 512 * 1024
    assert RN50.macs(shape) == stem * 48**2 + convolved + pooled


def test_a_resnet_as_torch_counts_it():
    config = SIBLINGS["ResNet"]
    tower = teacher_tower(family("ResNet"))
    assert (tower.shape, tower.stride) == (ImageShape((2, 2, 2, 2), 32, 0, 64), 32)
    # PyTorch's pool asks for the embedding of all of its 4 + 1 positions, an export's for one.
    others = 4 * (1024**2 + 1024 * 48 + 2 * 5 * 1024)
    assert tower.macs(tower.shape) == model_cost(config, "test").image_macs - others
    visual = family("ResNet").model.visual
    matrices = sum(each.numel() for each in visual.parameters() if each.ndim > 1)
    assert tower.parameters(tower.shape) == matrices


def test_stages_of_a_fastvit_keep_their_ratios():
    shapes = MCI0.shapes()
    assert shapes[0] == MCI0.shape and len(shapes) == 5 * 5 * 3 * 3
    last = shapes[-1]
    assert last.name == "L1.1.2.1-W16-N12-S128"
    assert MCI0.settings(last) == {
        "layers": [1, 1, 2, 1], "width": [16, 32, 64, 128], "mlp_ratio": [0.75] * 4,
        "image_size": 128,
    }  # fmt: skip
    wider = ImageShape((2, 6, 10, 2), 64, 1.5, 256)
    assert MCI0.settings(wider) == {"mlp_ratio": [1.5] * 4}


def test_a_fastvit_by_hand():
    """128 pixels: 64 and 32 in the stem, then 32, 16, 8 and 4 a side."""
    shape = ImageShape((1, 1, 2, 1), 16, 0.75, 128)
    stem = 27 * 16, 9 * 16 + 16 * 16
    joints = [0, 49 * 32 + 32**2, 49 * 64 + 64**2, 49 * 128 + 128**2 + 49 * 128]
    blocks = [
        (9 + 49) * 16 + 2 * 16 * 12,
        (9 + 49) * 32 + 2 * 32 * 24,
        2 * ((9 + 49) * 64 + 2 * 64 * 48),
        4 * 128**2 + 49 * 128 + 2 * 128 * 96,
    ]
    last, head = 9 * 256, 2 * 256 * 16 + 256 * 512
    assert MCI0.parameters(shape) == sum(stem) + sum(joints) + sum(blocks) + last + head
    sides = (32, 16, 8, 4)
    stages = sum((j + b) * side**2 for j, b, side in zip(joints, blocks, sides, strict=True))
    attended = 2 * 16 * 16 * 128
    assert MCI0.macs(shape) == (
        stem[0] * 64**2 + stem[1] * 32**2 + stages + attended + last * 16 + head
    )


@pytest.mark.parametrize("name", IMAGE_KINDS)
def test_the_smallest_and_the_narrowest_student_inherit(name):
    """What the axes offer is built, inherits and sees; the text tower is the teacher's."""
    teacher = family(name)
    tower = teacher_tower(teacher, larger_patches=True)
    shapes = tower.shapes()
    assert tower.shape in shapes
    narrow = min(shapes, key=lambda shape: (shape.width, *(-blocks for blocks in shape.layers)))
    for shape in {narrow, *tower.smallest()}:
        torch.manual_seed(0)
        student = create_student({"vision_cfg": tower.settings(shape)}, teacher, frozen=("text",))
        assert student.image_size == shape.image_size
        report = inherit_student(teacher, student, plan="evenly", modes={"text": "frozen"})
        assert report.fresh_parameters <= 2  # logit scale and bias
        size = student.image_size
        with torch.no_grad():
            assert torch.isfinite(student.model.encode_image(torch.randn(2, 3, size, size))).all()
    fixed = name in ("SigLIP 2", "MobileCLIP-B")
    assert (narrow.width < tower.shape.width) != fixed
    patched = name in ("ViT", "SigLIP 2", "PE-Core", "EVA02", "CLIPA", "CoCa")
    assert (max(shape.patch for shape in shapes) > 0) == patched


def test_a_pools_heads_are_whole_too():
    """PE-Core's pool has heads of another width than its blocks."""
    tower = teacher_tower(family("PE-Core"))
    pool = family("PE-Core").model.visual.trunk.attn_pool
    assert tower.width_unit % (192 // pool.num_heads) == 0 == tower.width_unit % 32


def test_a_tower_that_cannot_be_inherited_is_refused(toy_teacher, monkeypatch):
    monkeypatch.setattr(
        toy_teacher.model, "state_dict", lambda: {"visual.trunk.blocks.0.conv.weight": None}
    )
    with pytest.raises(ModelError, match=r"teacher .*: the weights of this kind of image tower"):
        teacher_tower(toy_teacher)
