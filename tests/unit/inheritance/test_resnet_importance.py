"""Scores of a ResNet's units against finite differences, and students of the best units."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from families import family
from tinyclip_edge.inheritance.probe import fisher_direction
from tinyclip_edge.inheritance.resnet_probe import ResNetProbe
from tinyclip_edge.models import create_student, inherit_student

HEAD = 64


def images_of(dtype=torch.float32, count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 64, 64, generator=generator, dtype=dtype)


@pytest.fixture(scope="module")
def probed():
    """Scores of one draw over the image tower in float64, and what they should be."""
    model = family("ResNet").model.double().requires_grad_(False)
    images = images_of(torch.float64)
    generator = torch.Generator().manual_seed(3)
    others = F.normalize(torch.randn(5, 48, generator=generator, dtype=torch.float64), dim=-1)

    def logits():
        return 20 * F.normalize(model.encode_image(images), dim=-1) @ others.T

    with ResNetProbe(model.visual, HEAD) as probe:
        first = logits()
        probe.add(first, 1, torch.Generator().manual_seed(2))
    p = first.detach().softmax(dim=-1)
    direction = fisher_direction(p, torch.Generator().manual_seed(2))

    def expected(layers, unit):
        step, values = 1e-6, []
        for gate in (1 + step, 1 - step):
            with ExitStack() as stack, torch.no_grad():
                for layer in layers(model.visual):
                    hook = layer.register_forward_hook(
                        lambda _, __, out, gate=gate: times(out, unit, gate)
                    )
                    stack.callback(hook.remove)
                values.append(logits())
        slope = ((values[0] - values[1]) / (2 * step) * direction).sum(dim=1)
        return float(slope.square().mean())

    def heads(unit):
        """Of a head, whose columns of the pool's last product are times a gate."""
        step, values = 1e-6, []
        weight = model.visual.attnpool.c_proj.weight
        columns = slice(HEAD * unit, HEAD * unit + HEAD)
        for gate in (1 + step, 1 - step):
            before = weight[:, columns].clone()
            weight[:, columns] *= gate
            values.append(logits())
            weight[:, columns] = before
        slope = ((values[0] - values[1]) / (2 * step) * direction).sum(dim=1)
        return float(slope.square().mean())

    return probe.scores(), expected, heads


def times(x, unit, gate):
    x = x.clone()
    x[:, unit] *= gate
    return x


CASES = {
    "stem": (lambda s: s.stem[2], lambda v: [v.act3], 30),
    "reduced": (lambda s: s.reduced[1][1], lambda v: [v.layer2[1].act1], 40),
    "convolved": (lambda s: s.convolved[3][0], lambda v: [v.layer4[0].act2], 5),
    "outer of the first stage": (
        lambda s: s.outer[0],
        lambda v: [v.layer1[0].downsample, v.layer1[0].bn3, v.layer1[1].bn3],
        100,
    ),
    "outer of the last stage": (
        lambda s: s.outer[3],
        lambda v: [v.layer4[0].downsample, v.layer4[0].bn3, v.layer4[1].bn3],
        7,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_finite_differences(probed, case):
    scores, expected, _ = probed
    of, layers, first = CASES[case]
    units = [unit for unit in range(first, len(of(scores))) if of(scores)[unit] > 1e-9][:2]
    assert units
    for unit in units:
        assert float(of(scores)[unit]) == pytest.approx(expected(layers, unit), rel=1e-5)


@pytest.mark.parametrize("head", [0, 15])
def test_scores_of_the_pools_heads(probed, head):
    scores, _, heads = probed
    assert scores.pool_heads.shape == (16,)
    assert float(scores.pool_heads[head]) == pytest.approx(heads(head), rel=1e-5)


def calibration_of(clip):
    texts = [f"a {colour} {thing}" for colour in ("red", "blue") for thing in ("cat", "dog", "car")]
    return images_of(count=len(texts)), clip.tokenizer(texts)


@torch.no_grad()
def features(clip):
    return clip.model.encode_image(images_of(), normalize=True)


def test_inner_channels_that_matter_are_inherited():
    """Half of the inner channels, anywhere, carry nothing: the other half is all that is read."""
    teacher = family("ResNet")
    kept = {}
    with torch.no_grad():
        for name, parameter in teacher.model.visual.named_parameters():
            # Deeper ones are off on some pictures by themselves.
            shallow = name.startswith(("layer1.", "layer2."))
            if shallow and name.endswith(("bn1.weight", "bn1.bias")):
                order = torch.randperm(len(parameter), generator=torch.Generator().manual_seed(7))
                off = order[: len(parameter) // 2]
                parameter[off] = 0.0
                kept[name] = sorted(set(range(len(parameter))) - set(off.tolist()))
    width = {"width": 16, "layers": [2, 2, 2, 2]}
    student = create_student({"vision_cfg": width}, teacher)
    inherit_student(teacher, student, plan="importance", calibration=calibration_of(teacher))
    ours, theirs = student.model.visual, teacher.model.visual
    for name, channels in kept.items():
        if name.endswith("weight"):
            np.testing.assert_array_equal(
                ours.get_parameter(name).detach(), theirs.get_parameter(name)[channels].detach()
            )


def test_a_student_of_the_same_shape_is_its_teacher():
    teacher = family("ResNet")
    student = create_student({}, teacher)
    inherit_student(teacher, student, plan="importance", calibration=calibration_of(teacher))
    np.testing.assert_allclose(features(student), features(teacher), atol=1e-6)


def test_blocks_are_searched_and_the_first_of_a_stage_stays():
    teacher = family("ResNet", vision_cfg={"layers": [3, 1, 2, 1]})
    with torch.no_grad():  # the middle block of the first stage adds nothing
        teacher.model.visual.layer1[1].bn3.weight.zero_()
        teacher.model.visual.layer1[1].bn3.bias.zero_()
    student = create_student({"vision_cfg": {"layers": [2, 1, 1, 1]}}, teacher)
    report = inherit_student(
        teacher, student, plan="importance", calibration=calibration_of(teacher)
    )
    assert report.image.layers == ((0, 2), (0,), (0,), (0,))
