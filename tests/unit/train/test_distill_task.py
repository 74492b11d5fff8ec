"""The task: a teacher that stays frozen, scales set beforehand, terms by name."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tinyclip_edge.config import LossConfig
from tinyclip_edge.data import TeacherFeatures
from tinyclip_edge.models import create_student
from tinyclip_edge.train.builder import pixel_codec
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskContext
from tinyclip_edge.train.tasks.teacher import Teacher

STUDENT = {
    "vision_cfg": {"width": 64, "layers": 2},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2},
}
CPU = torch.device("cpu")


@pytest.fixture
def batch(batch):
    return replace(batch, image_ids=np.arange(6), caption_ids=np.arange(6))


def make(teacher, *, features=None, student=None, **loss):
    torch.manual_seed(0)
    student = student or create_student(STUDENT, teacher)
    codec = pixel_codec(teacher)
    frozen = Teacher(teacher, codec, device=CPU, features=features)
    return DistillTask(student, TaskContext(frozen, codec, LossConfig(**loss), CPU))


def test_the_teacher_stays_frozen(toy_teacher, batch):
    before = {k: v.clone() for k, v in toy_teacher.model.state_dict().items()}
    task = make(toy_teacher, contrastive=1.0)
    optimizer = torch.optim.SGD(task.encoder.parameters(), lr=1.0)
    task.train()
    for _ in range(2):
        optimizer.zero_grad()
        task.terms(batch).loss.backward()
        optimizer.step()
    teacher = task.teacher.encoder
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in toy_teacher.model.state_dict().items())
    assert task.encoder.training
    assert not {id(p) for p in task.encoder.parameters()} & {id(p) for p in teacher.parameters()}


def test_a_student_that_is_the_teacher_has_no_divergence(toy_teacher, batch):
    twin = create_student({}, toy_teacher)
    twin.model.load_state_dict(toy_teacher.model.state_dict())
    terms = make(toy_teacher, student=twin, teacher_logit_scale=50.0).terms(batch).values()
    assert terms["kl"] == pytest.approx(0, abs=1e-5)
    assert terms["loss"] == pytest.approx(terms["teacher_entropy"], abs=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_terms(toy_teacher, batch):
    terms = make(toy_teacher, affinity=2.0, contrastive=0.5).terms(batch)
    values = terms.values()
    assert values["loss"] == pytest.approx(2 * values["affinity"] + 0.5 * values["contrastive"])
    assert values["affinity"] == pytest.approx(values["kl"] + values["teacher_entropy"], abs=1e-5)
    assert set(terms.parts) == {"affinity", "contrastive"}
    assert set(make(toy_teacher, affinity=0, contrastive=1).terms(batch).parts) == {"contrastive"}


@pytest.mark.parametrize(
    ("loss", "expected", "learns"),
    [
        ({}, 1 / 0.07, False),
        ({"teacher_logit_scale": 50.0}, 50, False),
        ({"teacher_logit_scale": 50.0, "student_logit_scale": 20.0}, 20, False),
        ({"student_logit_scale": "learned"}, 1 / 0.07, True),
        ({"student_logit_scale": "learned", "teacher_logit_scale": 200.0}, 100, True),
    ],
)
def test_the_scale_stands_before_the_first_step(toy_teacher, batch, loss, expected, learns):
    task = make(toy_teacher, **loss)
    assert task.terms(batch).values()["student_scale"] == pytest.approx(expected, rel=1e-5)
    assert task.encoder.log_scale.requires_grad is learns
    assert task.clip.logit_scale == pytest.approx(expected, rel=1e-5)


def test_a_learnt_scale_stays_between_1_and_100(toy_teacher):
    task = make(toy_teacher, student_logit_scale="learned")
    for raw, clamped in ((9.0, math.log(100)), (-3.0, 0.0), (2.5, 2.5)):
        with torch.no_grad():
            task.encoder.log_scale.fill_(raw)
        task.after_step()
        assert task.encoder.log_scale.item() == pytest.approx(clamped)


def test_cached_features_give_the_same_loss_and_are_computed_once(toy_teacher, batch, monkeypatch):
    live = make(toy_teacher, teacher_logit_scale=50.0).terms(batch).values()
    cached = make(toy_teacher, features=TeacherFeatures("k", 6, 6), teacher_logit_scale=50.0)
    assert cached.terms(batch).values()["loss"] == pytest.approx(live["loss"], abs=2e-3)

    def forbidden(*_):
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(cached.teacher.encoder, "encode_image", forbidden)
    monkeypatch.setattr(cached.teacher.encoder, "encode_text", forbidden)
    assert cached.terms(batch).values()["loss"] == pytest.approx(live["loss"], abs=2e-3)


def test_a_student_of_another_image_size_sees_resized_pixels(toy_teacher, batch):
    config = {**STUDENT, "vision_cfg": {**STUDENT["vision_cfg"], "image_size": 16}}
    task = make(toy_teacher, student=create_student(config, toy_teacher))
    assert task.terms(batch).loss.isfinite()
