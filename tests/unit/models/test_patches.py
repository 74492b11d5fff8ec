"""Students with another patch size than their teacher's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from families import family
from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir

VIT = "visual.conv1.weight"
TIMM = "visual.trunk.patch_embed.proj.weight"


def enlarging(before: int, after: int) -> np.ndarray:
    """Bilinear weights ``[after, before]`` of a row of pixels, whose edges are repeated."""
    matrix = np.zeros((after, before))
    for pixel in range(after):
        place = min(max((pixel + 0.5) * before / after - 0.5, 0.0), before - 1.0)
        left = min(int(place), before - 2)
        matrix[pixel, left : left + 2] = left + 1 - place, place - left
    return matrix


def oracle(weights: np.ndarray, after: int) -> np.ndarray:
    """Least-squares patch weights, solved in float64: the filter that sees an enlarged patch as
    ``weights [W, 3, P, P]`` see the patch itself."""
    rows = enlarging(weights.shape[-1], after)
    flat = weights.reshape(-1, rows.shape[1] ** 2).T.astype(np.float64)
    solved, *_ = np.linalg.lstsq(np.kron(rows, rows).T, flat, rcond=None)
    return solved.T.reshape(*weights.shape[:2], after, after)


def student_of(teacher, vision):
    torch.manual_seed(1)
    student = create_student({"vision_cfg": vision}, teacher)
    return student, inherit_student(teacher, student)


@pytest.mark.parametrize("patch", [12, 16])
def test_enlarged_patches_have_the_tokens_that_they_had(toy_teacher, patch):
    """Four by four patches of 8 pixels, each enlarged by itself: exact, in float64."""
    student, report = student_of(toy_teacher, {"patch_size": patch, "image_size": 4 * patch})
    assert report.notes == (f"{VIT} resized from patches of 8x8 to {patch}x{patch} pixels",)
    ours, theirs = (clip.model.state_dict()[VIT] for clip in (student, toy_teacher))
    np.testing.assert_allclose(ours, oracle(theirs.numpy(), patch), rtol=1e-4, atol=1e-5)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 32, 32))
    grid = np.kron(np.eye(4), enlarging(8, patch))
    large = grid @ pixels @ grid.T
    convolve = torch.nn.functional.conv2d
    before = convolve(torch.from_numpy(pixels), theirs.double(), stride=8)
    after = convolve(torch.from_numpy(large), ours.double(), stride=patch)
    np.testing.assert_allclose(after, before, atol=1e-4 * before.abs().max())
    # The positions are as many as before, so that the whole tower sees the same.
    with torch.no_grad():
        images = (torch.from_numpy(each).float() for each in (pixels, large))
        expected = toy_teacher.model.encode_image(next(images))
        seen = student.model.encode_image(next(images))
    np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=1e-4)


def test_a_larger_patch_has_fewer_positions(toy_teacher):
    student, report = student_of(toy_teacher, {"patch_size": 16, "width": 64, "layers": 2})
    assert report.notes == (
        "visual.positional_embedding interpolated from 17 to 5 positions",
        f"{VIT} resized from patches of 8x8 to 16x16 pixels",
    )
    assert report.fresh_parameters == 1  # the logit scale
    theirs = toy_teacher.model.state_dict()[VIT].numpy()
    ours = student.model.state_dict()[VIT]
    np.testing.assert_allclose(ours, oracle(theirs, 16)[:64], rtol=1e-4, atol=1e-5)


def test_smaller_patches_are_the_nearest(toy_teacher):
    """No filter of 4x4 sees all of 8x8: that of minimal norm, and many more positions."""
    student, report = student_of(toy_teacher, {"patch_size": 4})
    assert report.notes[0].endswith("interpolated from 17 to 65 positions")
    assert student.model.state_dict()[VIT].shape == (128, 3, 4, 4)
    with torch.no_grad():
        assert torch.isfinite(student.model.encode_image(torch.randn(1, 3, 32, 32))).all()


def test_the_same_patch_size_copies(toy_teacher):
    student, report = student_of(toy_teacher, {"patch_size": 8})
    assert report.notes == ()
    assert torch.equal(student.model.state_dict()[VIT], toy_teacher.model.state_dict()[VIT])


def test_patches_of_timm(tmp_path):
    """A tower of timm is sized by it, and is written and read again."""
    teacher = family("SigLIP 2")
    student, report = student_of(teacher, {"patch_size": 32, "image_size": 64})
    theirs, ours = (clip.model.state_dict()[TIMM] for clip in (teacher, student))
    assert report.notes == (f"{TIMM} resized from patches of 16x16 to 32x32 pixels",)
    np.testing.assert_allclose(ours, oracle(theirs.numpy(), 32), rtol=1e-4, atol=1e-5)
    save_local_dir(tmp_path / "student", student)
    again = load_clip(str(tmp_path / "student"))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.model.encode_image(pixels), student.model.encode_image(pixels))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MobileCLIP 2", "patch_size: fastvit_mci0 has no patches; leave it out"),
        ("ViTamin", "patch_size: .* has convolutions instead of patches; leave it out"),
        ("MobileCLIP-B", "patch_size: .* has convolutions instead of patches; leave it out"),
    ],
)
def test_towers_without_patches_refuse_a_size(name, message):
    with pytest.raises(ModelError, match=message):
        create_student({"vision_cfg": {"patch_size": 32}}, family(name))


def test_a_resnet_has_no_patches():
    teacher = family("ResNet")
    student = create_student({"vision_cfg": {"patch_size": 16}}, teacher)
    with pytest.raises(InheritanceError, match="patch_size differs: teacher None, student 16"):
        inherit_student(teacher, student)
