"""Terms of the objective: weights of directions, features, projector; all logged by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyclip_edge.config import LossConfig, OptimConfig
from tinyclip_edge.data import Batch
from tinyclip_edge.models import create_student
from tinyclip_edge.train.optimizer import make_optimizer
from tinyclip_edge.train.tasks.distill_task import DistillTask
from tinyclip_edge.train.tasks.encoders import pixel_codec
from tinyclip_edge.train.tasks.teacher import Teacher

CPU = torch.device("cpu")
CAPTIONS = ("cat", "a dog", "the red square", "blue circle", "a photo of the bicycle", "red dog")
SMALL = {
    "vision_cfg": {"width": 64, "layers": 2},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2},
}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch(tuple("abcdef"), pixels, CAPTIONS, np.arange(6), np.arange(6))


def make(teacher, *, before=None, embed_dim=64, **loss):
    torch.manual_seed(0)
    student = create_student({**SMALL, "embed_dim": embed_dim}, teacher)
    codec = pixel_codec(teacher)
    asked = Teacher(teacher, codec, device=CPU)
    return DistillTask(student, asked, codec, LossConfig(**loss), device=CPU, before=before)


def features(task, batch):
    """Both towers of student and teacher, float64."""
    task.encoder.eval()
    pixels = task._codec.restore(batch.pixels)
    with torch.no_grad():
        seen = [task.encoder(pixels, task.clip.tokenizer(list(CAPTIONS)))[:2]]
        seen.append(task.teacher.features_of(batch))
    return [[x.double().numpy() for x in pair] for pair in seen]


def test_directions_are_weighed_apart(toy_teacher, batch):
    half = make(toy_teacher).terms(batch).values()
    assert half["affinity"] == pytest.approx(
        0.5 * half["affinity_i2t"] + 0.5 * half["affinity_t2i"], rel=1e-6
    )
    ours = make(toy_teacher, affinity_i2t=1.0, affinity_t2i=0.2).terms(batch).values()
    expected = half["affinity_i2t"] + 0.2 * half["affinity_t2i"]
    assert ours["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_feature_term_at_equal_widths(toy_teacher, batch, kind):
    task = make(toy_teacher, affinity=0.0, feature=3.0, feature_kind=kind)
    found = task.terms(batch).values()
    student, teacher = features(task, batch)
    # Unit vectors: |a - b|^2 = 2 - 2 cos, spread over 64 values.
    cosine = np.mean([(a * b).sum(axis=1) for a, b in zip(student, teacher, strict=True)])
    expected = (2 - 2 * cosine) / 64 if kind == "mse" else 1 - cosine
    assert found["feature"] == pytest.approx(expected, rel=1e-5)
    assert found["loss"] == pytest.approx(3 * expected, rel=1e-5)
    assert len(task.beside) == 0
    assert "affinity" not in found


def test_a_narrower_student_is_projected_and_the_projector_learns(toy_teacher, batch):
    task = make(toy_teacher, embed_dim=32, feature=1.0)
    projector = task.beside["projector"]
    student, teacher = features(task, batch)
    matrices = [m.weight.detach().double().numpy() for m in (projector.image, projector.text)]
    expected = np.mean(
        [((a @ m.T - b) ** 2).mean() for a, b, m in zip(student, teacher, matrices, strict=True)]
    )
    assert task.terms(batch).values()["feature"] == pytest.approx(expected, rel=1e-5)
    optim = OptimConfig(weight_decay=0.3)
    optimizer = make_optimizer(task.encoder, optim, task.groups(optim))
    last = optimizer.param_groups[-1]
    assert {id(p) for p in last["params"]} == {id(p) for p in projector.parameters()}
    assert last["weight_decay"] == 0.3
    before = projector.image.weight.detach().clone()
    task.terms(batch).loss.backward()
    optimizer.step()
    assert not torch.equal(projector.image.weight, before)
    assert not any("projector" in name for name in task.clip.model.state_dict())


def test_the_next_stage_goes_on_with_scale_and_projector(toy_teacher):
    given = {"embed_dim": 32, "feature": 1.0, "student_logit_scale": "learned"}
    first = make(toy_teacher, **given)
    with torch.no_grad():
        first.encoder.log_scale.fill_(1.5)
        first.beside["projector"].text.weight.fill_(0.25)
    second = make(toy_teacher, before=first, **given)
    assert second.encoder.log_scale.item() == pytest.approx(1.5)
    assert second.beside["projector"].text.weight.eq(0.25).all()
    other = make(toy_teacher, before=first, **{**given, "embed_dim": 16})
    assert other.beside["projector"].text.weight.shape == (64, 16)
