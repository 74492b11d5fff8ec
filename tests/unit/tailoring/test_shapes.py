"""Shapes of image towers: what the axes offer, and what a shape has."""

from __future__ import annotations

from dataclasses import replace

from tinyclip_edge.tailoring.shapes import ImageShape, maximal, spread
from tinyclip_edge.tailoring.transformer_tower import TeacherTransformer

VIT_B_32 = TeacherTransformer(
    ImageShape((12,), 768, 4.0, 224), embed_dim=512, width_unit=64, stride=32
)
SMALL = TeacherTransformer(ImageShape((2,), 128, 4.0, 64), embed_dim=64, width_unit=64, stride=16)
SMALL_CFG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 128, "layers": 2, "head_width": 64},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1},
}


def test_shapes_are_whole_heads_and_whole_patches():
    shapes = VIT_B_32.shapes()
    assert shapes[0] == VIT_B_32.shape and len(shapes) == len(set(shapes)) == 5 * 5 * 3 * 3
    assert {shape.layers for shape in shapes} == {(12,), (9,), (6,), (4,), (3,)}
    # 768 times 0.75, 0.5, 0.375, 0.25, down to a multiple of 64.
    assert {shape.width for shape in shapes} == {768, 576, 384, 256, 192}
    assert {shape.mlp_ratio for shape in shapes} == {4.0, 2.0, 1.0}
    assert {shape.image_size for shape in shapes} == {224, 160, 96}  # 168 and 112, down to 32s


def test_a_tiny_teacher_has_a_layer_and_a_head_at_least():
    tower = TeacherTransformer(
        ImageShape((1,), 64, 2.0, 32), embed_dim=32, width_unit=64, stride=32
    )
    assert {(s.layers, s.width, s.image_size) for s in tower.shapes()} == {((1,), 64, 32)}
    assert {shape.neurons for shape in tower.shapes()} == {128, 64, 32}


def test_a_width_without_projection_stays():
    tower = TeacherTransformer(
        ImageShape((4,), 256, 4.0, 64), embed_dim=256, width_unit=0, stride=16
    )
    assert {shape.width for shape in tower.shapes()} == {256}


def test_parameters_are_those_of_open_clip():
    """Matrices of a small ViT, in open_clip's own modules; the class token is a vector there."""
    import torch

    from tinyclip_edge.models.build import build_model

    with torch.device("meta"):
        visual = build_model(SMALL_CFG, "test").visual
    matrices = sum(each.numel() for each in visual.parameters() if each.ndim > 1)
    assert SMALL.parameters(SMALL.shape) == matrices


def test_multiply_accumulates_are_those_that_torch_counts():
    from tinyclip_edge.models.cost import model_cost

    assert SMALL.macs(SMALL.shape) == model_cost(SMALL_CFG, "test").image_macs


def test_settings_name_what_differs():
    assert VIT_B_32.settings(VIT_B_32.shape) == {}
    smaller = ImageShape((6,), 384, 4.0, 160)
    assert VIT_B_32.settings(smaller) == {"layers": 6, "width": 384, "image_size": 160}
    assert smaller.name == "L6-W384-N1536-S160"


def test_larger_patches_divide_the_image_size():
    tower = replace(VIT_B_32, larger_patches=(48, 64))
    patches = {(shape.image_size, shape.patch) for shape in tower.shapes()}
    assert patches == {(224, 0), (160, 0), (96, 0), (96, 48)}
    assert tower.shape in tower.shapes()
    small, large = tower.smallest()
    assert (small.patch, large.patch) == (48, 0) and large.covers(small)
    assert tower.settings(small) == {
        "layers": 3, "width": 192, "mlp_ratio": 1.0, "image_size": 96, "patch_size": 48,
    }  # fmt: skip
    assert small.name == "L3-W192-N192-S96-P48" and str(small).endswith(
        "96 pixels in patches of 48"
    )
    # Patches of 48 pixels: four and a class token in three layers, for nine of 32 pixels.
    assert tower.parameters(small) == 3 * 6 * 192**2 + 192 * (3 * 48**2 + 5 + 512)
    assert tower.macs(small) == (
        3 * 5 * (6 * 192**2 + 2 * 5 * 192) + 4 * 3 * 48**2 * 192 + 192 * 512
    )
    assert tower.parameters(large) == 3 * 6 * 192**2 + 192 * (3 * 32**2 + 10 + 512)


def test_maximal_shapes_are_covered_by_none():
    deep, wide = ImageShape((6,), 64, 4.0, 64), ImageShape((3,), 128, 4.0, 64)
    covered = ImageShape((3,), 64, 4.0, 64)
    assert maximal([covered, wide, deep, deep]) == [deep, wide]
    assert deep.covers(covered) and not deep.covers(wide) and not wide.covers(deep)


def test_a_spread_has_both_ends():
    shapes = [ImageShape((n,), 64, 4.0, 64) for n in range(10, 0, -1)]
    assert [shape.layers[0] for shape in spread(shapes, 4)] == [10, 7, 4, 1]
    assert [shape.layers[0] for shape in spread(shapes, 1)] == [10]
    assert spread(shapes, 20) == shapes
