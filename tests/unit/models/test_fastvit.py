"""Students of FastViT, MobileCLIP's image tower, stage by stage."""

from __future__ import annotations

import pytest
import torch

from families import family
from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance.plan import successors
from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir
from tinyclip_edge.models.describe import describe

MCI0 = "MobileCLIP 2"


def pixels(count=4):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def image_features(clip, images):
    return clip.model.encode_image(images)


@torch.no_grad()
def silence(clip, channels, *, seed):
    """Let only some channels of the first stage, and their successors, carry anything.

    So do only random halves of the heads, neurons and channels inside squeeze-and-excite; the
    latter's first ones, since a student has always these.
    """
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in clip.model.visual.trunk.state_dict().items():
        if "running" in key or key.endswith("batches_tracked") or "head." in key:
            continue
        if ".se." in key:
            if key.endswith("fc2.weight"):
                tensor[:, tensor.shape[1] // 2 :] = 0
            continue
        growth = len(tensor) // 16
        if key.endswith(("mlp.fc1.weight", "mlp.fc1.bias", "qkv.weight")):
            continue  # their outputs are cut where they are read
        off = torch.ones(len(tensor), dtype=torch.bool)
        off[[channel * growth + i for channel in channels for i in range(growth)]] = False
        if tensor.ndim == 1 or key.endswith(("pos_enc.weight", "fc2.weight", "proj.weight")):
            tensor[off] = 0  # a norm then gives nothing, whatever it reads
        if key.endswith("mlp.fc2.weight"):
            tensor[:, torch.randperm(tensor.shape[1], generator=generator)[::2]] = 0
        if key.endswith("token_mixer.proj.weight"):
            heads = torch.randperm(tensor.shape[1] // 32, generator=generator)[::2]
            tensor.unflatten(1, (-1, 32))[:, heads] = 0


def test_channels_that_carry_nothing_can_be_cut_away():
    teacher = family(MCI0)
    channels = sorted(torch.randperm(16, generator=torch.Generator().manual_seed(5))[:8].tolist())
    silence(teacher, channels, seed=6)
    student = create_student({"vision_cfg": {"width": 8}}, teacher)
    ids = torch.randint(1, 400, (8, 8), generator=torch.Generator().manual_seed(7))
    inherit_student(teacher, student, plan="importance", calibration=(pixels(8), ids))
    expected = image_features(teacher, pixels())
    assert (expected - expected.mean(0)).abs().mean() > 1e-3
    torch.testing.assert_close(image_features(student, pixels()), expected, atol=1e-5, rtol=1e-4)


def test_statistics_of_norms_are_sliced_along():
    teacher = family(MCI0)
    student = create_student({"vision_cfg": {"width": 8}}, teacher)
    report = inherit_student(teacher, student)
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    for key in (
        "visual.trunk.stem.2.identity.running_var",
        "visual.trunk.stages.2.downsample.proj.0.large_conv.bn.running_mean",
        "visual.trunk.stages.3.blocks.1.norm.running_var",
        "visual.trunk.final_conv.conv_scale.bn.running_mean",
    ):
        assert torch.equal(ours[key], theirs[key][: len(theirs[key]) // 2])
    shared = report.taken.image.shared
    assert [(share.taken, share.of) for share in shared.values()] == [
        (128, 256), (8, 16), (16, 32), (32, 64), (64, 128)
    ]  # fmt: skip
    assert len(report.taken.image.layers) == 10


def test_widths_may_grow_less_than_the_teachers():
    """Then the first successors of each channel are inherited."""
    assert successors((0, 3), 2, 1, "") == (0, 6)
    teacher = family(MCI0)
    student = create_student({"vision_cfg": {"width": [16, 16, 32, 64]}}, teacher)
    inherit_student(teacher, student)
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    key = "visual.trunk.stages.1.blocks.0.mlp.fc2.bias"
    assert torch.equal(ours[key], theirs[key][::2])
    key = "visual.trunk.stages.3.blocks.0.mlp.fc2.bias"
    assert torch.equal(ours[key], theirs[key].view(16, 2, 2, 2)[:, 0].flatten())
    assert bool(image_features(student, pixels()).isfinite().all())


@pytest.mark.slow
def test_another_model_of_the_same_blocks_is_a_teacher():
    teacher, student = family(MCI0, vision_cfg={"timm_model_name": "fastvit_mci2"}), family(MCI0)
    assert inherit_student(teacher, student).fresh_parameters == 1
    assert torch.equal(image_features(student, pixels()), image_features(teacher, pixels()))
    other = family(MCI0, vision_cfg={"timm_model_name": "fastvit_sa12", "mlp_ratio": 3.0})
    with pytest.raises(
        InheritanceError, match=r"trunk\.stages\.1\.downsample\.proj\.0\.act differs"
    ):
        inherit_student(teacher, other)
    with pytest.raises(InheritanceError, match=r"a timm ViTamin image tower cannot inherit from a"):
        inherit_student(teacher, family("ViTamin", text_cfg={"no_causal_mask": True}))


@pytest.mark.slow
def test_the_form_for_inference_is_refused(tmp_path):
    from timm.utils.model import reparameterize_model

    teacher, student = family(MCI0), family(MCI0)
    reparameterize_model(teacher.model.visual.trunk, inplace=True)
    with pytest.raises(InheritanceError, match=r"fused for inference \('visual\.trunk\.stem\.0\."):
        inherit_student(teacher, student)
    save_local_dir(tmp_path / "fused", teacher)
    with pytest.raises(
        ModelError, match=r"fused for inference .* training branches; give"
    ) as caught:
        load_clip(str(tmp_path / "fused"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_without_a_projection_the_last_channels_are_the_embedding(tmp_path):
    teacher = family(MCI0, embed_dim=256, vision_cfg={"timm_proj": "none"})
    text = {"text_cfg": {"layers": 1}}
    student = create_student({**text, "vision_cfg": {"width": 8}}, teacher)
    assert student.embedding_dim == 128
    ids = torch.randint(1, 400, (4, 8), generator=torch.Generator().manual_seed(7))
    report = inherit_student(teacher, student, plan="importance", calibration=(pixels(), ids))
    assert report.taken.embedding == report.taken.image.shared["last channels"]
    save_local_dir(tmp_path / "student", student)
    loaded = load_clip(str(tmp_path / "student"))
    assert torch.equal(image_features(loaded, pixels()), image_features(student, pixels()))


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"layers": 2}, r"layers 2 must list 4 numbers, one for each stage$"),
        ({"layers": [1, 1, 2]}, r"layers \[1, 1, 2\] must list 4 numbers"),
        ({"layers": [1, 1, 0, 1]}, r"layers 0 must be a whole number above 0"),
        ({"width": [8, 16, 32]}, r"one for each stage, or give that of the first"),
        ({"width": [8, 12, 32, 64]}, r"width 12 of stage 2 is not a multiple of 8"),
        ({"width": 3}, r"width 24 of stage 4 is not a multiple of 32, the width of a head"),
        ({"width": [8, 16, 16, 48]}, r"width 48 of stage 4 is not a multiple of 32"),
        ({"head_width": 16, "width": 8}, r"head_width 16: heads of fastvit_mci0 are 32 wide"),
        ({"mlp_ratio": [1, 2]}, r"mlp_ratio \[1, 2\] must be a number above 0, or list one"),
        ({"mlp_ratio": -1}, r"mlp_ratio -1 must be a number above 0"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(vision, message):
    with pytest.raises(ModelError, match=message) as caught:
        create_student({"vision_cfg": vision}, teacher_of_shapes())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"width": 32}, r"width 32 is more than the teacher's 16"),
        ({"layers": [2, 3, 4, 2]}, r"stage 2: blocks 3 is more than the teacher's 2"),
        ({"mlp_ratio": 4}, r"stage 1: neurons 64 is more than the teacher's 48"),
        ({"width": [8, 32, 64, 128]}, r"stage 2: 4 channels for each of the stage before"),
    ],
)
def test_a_larger_student_is_refused(vision, message):
    teacher = teacher_of_shapes()
    with torch.device("meta"):
        student = create_student({"vision_cfg": vision}, teacher)
        with pytest.raises(InheritanceError, match=message):
            inherit_student(teacher, student)


def teacher_of_shapes():
    """A teacher without weights."""
    from tinyclip_edge.families.siblings import CONVOLUTIONS
    from tinyclip_edge.models.assemble import assemble

    with torch.device("meta"):
        return assemble(CONVOLUTIONS[MCI0], None, name=MCI0)


@pytest.mark.slow
def test_what_has_no_sizes_says_what_works():
    with pytest.raises(ModelError, match=r"builds the stem of vit_base_mci_224 for 768 channels"):
        create_student({"vision_cfg": {"width": 384}}, family("MobileCLIP-B"))
    with pytest.raises(ModelError, match=r"resnet18 is neither a vision transformer nor a FastViT"):
        family("ViTamin", vision_cfg={"timm_model_name": "resnet18"})


def test_its_shape_is_one_line():
    teacher = teacher_of_shapes()
    with torch.device("meta"):
        student = create_student({"vision_cfg": {"layers": [1, 1, 2, 1], "width": 8}}, teacher)
    assert describe(student).startswith(
        "fastvit_mci0 in 1-1-2-1 blocks, width 8-16-32-64, 64 px; text of width 48"
    )
    student.config["units"] = {"image": {"neurons": [24, 7, 0, 9, 9]}}
    assert "width 8-16-32-64, 0 to 24 neurons, 64 px" in describe(student)
