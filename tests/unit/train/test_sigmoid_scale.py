"""A student of a teacher with a sigmoid judges labels on the teacher's scale."""

from __future__ import annotations

import math

import pytest
import torch

from tinyclip_edge.config import LossConfig
from tinyclip_edge.models import create_student, load_clip, save_local_dir
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.train.builder import pixel_codec
from tinyclip_edge.train.qat.quantized_task import QuantizedTask, TowerRounding
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskContext
from tinyclip_edge.train.tasks.teacher import Teacher

STUDENT = {
    "vision_cfg": {"width": 64, "layers": 2},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2},
}
SCALE, BIAS = 117.3, -16.5  # of SigLIP, about
CPU = torch.device("cpu")


def sigmoid_clip(toy, scale=SCALE, bias=BIAS, seed=0):
    config = {**toy.config["model_cfg"], "init_logit_bias": -10}
    torch.manual_seed(seed)
    clip = assemble(config, None, name="sigmoid", tokenizer_file=toy.tokenizer_file)
    with torch.no_grad():
        clip.model.logit_scale.fill_(math.log(scale))
        clip.model.logit_bias.fill_(bias)
    return clip


@pytest.fixture
def teacher(toy_teacher):
    return sigmoid_clip(toy_teacher)


def task_of(teacher, student=None, *, ensemble=(), kind=DistillTask, before=None, **loss):
    torch.manual_seed(0)
    codec = pixel_codec(teacher)
    imitated = Teacher(teacher, codec, device=CPU, ensemble=ensemble)
    student = student or create_student(STUDENT, teacher)
    options = {"rounding": TowerRounding(None, None)} if kind is QuantizedTask else {}
    context = TaskContext(imitated, codec, LossConfig(**loss), CPU)
    return kind(student, context, before=before, **options)


def probability(clip, cosine):
    return 1 / (1 + math.exp(-(clip.logit_scale * cosine + clip.logit_bias)))


def test_an_untrained_student_has_the_teachers_factor_and_bias(teacher):
    student = create_student(STUDENT, teacher)
    assert student.logit_bias == pytest.approx(BIAS)
    assert student.logit_scale == pytest.approx(SCALE, rel=1e-6)


@pytest.mark.parametrize("setting", ["teacher", "learned"])
def test_the_same_similarity_is_as_likely_to_the_student(teacher, setting, tmp_path):
    student = task_of(teacher, student_logit_scale=setting).clip
    save_local_dir(tmp_path / "student", student)
    for clip in (student, load_clip(str(tmp_path / "student"))):
        for cosine, chance in ((0.12, 0.0814), (0.1407, 0.5010), (0.2, 0.99905)):
            assert probability(clip, cosine) == pytest.approx(chance, abs=1e-4)


def test_a_similarity_that_is_even_stays_even_at_the_scale_of_the_loss(teacher):
    """Similarities are those of the teacher, whatever the temperature of the affinities."""
    student = task_of(teacher, teacher_logit_scale=50.0).clip
    assert student.logit_scale == pytest.approx(50.0)
    assert probability(student, -BIAS / SCALE) == pytest.approx(0.5, abs=1e-6)


def test_the_bias_of_teachers_is_their_weighted_mean(teacher, toy_teacher):
    second = sigmoid_clip(toy_teacher, scale=80.0, bias=-12.0, seed=1)
    student = task_of(teacher, ensemble=[(second, 3.0)]).clip
    assert student.logit_bias == pytest.approx(0.25 * BIAS - 0.75 * 12.0)
    assert student.logit_scale == pytest.approx(0.25 * SCALE + 0.75 * 80.0)


def test_a_teacher_with_a_softmax_beside_leaves_the_first_ones_bias(teacher, toy_teacher):
    assert task_of(teacher, ensemble=[(toy_teacher, 1.0)]).clip.logit_bias == pytest.approx(BIAS)


def test_a_finetuned_student_keeps_its_own(teacher):
    student = create_student(STUDENT, teacher)
    with torch.no_grad():
        student.model.logit_bias.fill_(-7.0)
    assert task_of(teacher, student, kind=QuantizedTask).clip.logit_bias == -7.0


def test_a_learnt_factor_may_stay_at_the_teachers(teacher):
    task = task_of(teacher, student_logit_scale="learned")
    task.encoder.log_scale.data.fill_(5.0)
    task.after_step()
    assert task.clip.logit_scale == pytest.approx(SCALE, rel=1e-6)
