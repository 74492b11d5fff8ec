"""Inheritance judged by what the networks compute, not by how weights are laid out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tinyclip_edge.models import TorchEmbedder, create_student, inherit_student

NEURONS = 128  # of the student's feed-forward blocks; the toy teacher has 512


def silence(model, dropped):
    """Make the named blocks the identity, and the neurons that a student loses dead."""
    for name, parameter in model.named_parameters():
        dead = any(name.startswith(f"{block}.") for block in dropped)
        if dead and ("out_proj" in name or "c_proj" in name):
            parameter.data.zero_()
        elif name.endswith("c_proj.weight"):
            parameter.data[:, NEURONS:] = 0


# Of 4 image blocks the published plan keeps 0 and 2, of 3 text blocks 0 and 1 (step 3 // 2 = 1).
@pytest.mark.parametrize(
    ("layers", "image_dropped", "text_dropped"),
    [("published", (1, 3), 2), ("evenly", (1, 2), 1)],
)
def test_student_without_the_idle_parts_computes_the_same(
    toy_teacher, layers, image_dropped, text_dropped
):
    dropped = [f"visual.transformer.resblocks.{i}" for i in image_dropped]
    silence(toy_teacher.model, [*dropped, f"transformer.resblocks.{text_dropped}"])
    ratio = NEURONS / 128
    student = create_student(
        {
            "vision_cfg": {"layers": 2, "mlp_ratio": ratio},
            "text_cfg": {"layers": 2, "mlp_ratio": ratio},
        },
        toy_teacher,
    )
    inherit_student(toy_teacher, student, plan=layers)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]
    texts = ["a photo of a cat", "red square", "bicycle"]
    teacher, ours = TorchEmbedder(toy_teacher), TorchEmbedder(student)
    np.testing.assert_allclose(ours.encode_image(images), teacher.encode_image(images), atol=2e-6)
    np.testing.assert_allclose(ours.encode_text(texts), teacher.encode_text(texts), atol=2e-6)


def test_inherited_heads_attend_as_the_teachers(toy_teacher):
    """One kept head gives the same attention output as that head inside the teacher's block."""
    student = create_student(
        {"vision_cfg": {"width": 64, "layers": 4}, "text_cfg": {"width": 64, "layers": 3}},
        toy_teacher,
    )
    inherit_student(toy_teacher, student)
    block = toy_teacher.model.visual.transformer.resblocks[2].attn
    ours = student.model.visual.transformer.resblocks[2].attn
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([x, torch.zeros(2, 9, 64)], dim=-1)  # the lost channels carry nothing
    with torch.no_grad():
        q, k, v = (wide @ block.in_proj_weight.T + block.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (t[..., :64] for t in (q, k, v))  # head 0
        weights = torch.softmax(q @ k.transpose(1, 2) / 8.0, dim=-1)  # sqrt(64)
        head = weights @ v @ block.out_proj.weight[:64, :64].T + block.out_proj.bias[:64]
        actual, _ = ours(x, x, x, need_weights=False)
    torch.testing.assert_close(actual, head, atol=1e-6, rtol=1e-5)
