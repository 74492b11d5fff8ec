"""Terms of the objective: weights of directions, features, projector; all logged by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tinyclip_edge.config import LossConfig, OptimConfig
from tinyclip_edge.data import Batch, CachedRows
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models import create_student
from tinyclip_edge.models.logit_bias import FIRST_BIAS, with_logit_bias
from tinyclip_edge.train.optimizer import make_optimizer
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskContext
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


def make(teacher, *, before=None, embed_dim=64, bias=None, **loss):
    torch.manual_seed(0)
    student = create_student({**SMALL, "embed_dim": embed_dim}, teacher)
    if bias is not None:
        student = with_logit_bias(student, bias)
    codec = pixel_codec(teacher)
    context = TaskContext(Teacher(teacher, codec, device=CPU), codec, LossConfig(**loss), CPU)
    return DistillTask(student, context, before=before)


def features(task, batch):
    """Both towers of student and teacher, float64."""
    task.encoder.eval()
    pixels = task._codec.restore(batch.pixels)
    with torch.no_grad():
        student = [task.encoder(pixels, task.clip.tokenizer(list(CAPTIONS)))[:2]]
        student.append(task.teacher.features_of(batch))
    return [[x.double().numpy() for x in pair] for pair in student]


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
    values = task.terms(batch).values()
    student, teacher = features(task, batch)
    # Unit vectors: |a - b|^2 = 2 - 2 cos, spread over 64 values.
    cosine = np.mean([(a * b).sum(axis=1) for a, b in zip(student, teacher, strict=True)])
    expected = (2 - 2 * cosine) / 64 if kind == "mse" else 1 - cosine
    assert values["feature"] == pytest.approx(expected, rel=1e-5)
    assert values["loss"] == pytest.approx(3 * expected, rel=1e-5)
    assert len(task.beside) == 0
    assert "affinity" not in values


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
    options = {"embed_dim": 32, "feature": 1.0, "student_logit_scale": "learned"}
    first = make(toy_teacher, **options)
    with torch.no_grad():
        first.encoder.log_scale.fill_(1.5)
        first.beside["projector"].text.weight.fill_(0.25)
    second = make(toy_teacher, before=first, **options)
    assert second.encoder.log_scale.item() == pytest.approx(1.5)
    assert second.beside["projector"].text.weight.eq(0.25).all()
    other = make(toy_teacher, before=first, **{**options, "embed_dim": 16})
    assert other.beside["projector"].text.weight.shape == (64, 16)


def cross_entropy(logits, yes):
    """Binary cross entropy of all pairs, summed, over the number of rows."""
    return (np.logaddexp(0, logits) - yes * logits).sum() / len(logits)


def test_pairs_are_judged_one_by_one(toy_teacher, batch):
    task = make(toy_teacher, bias=0.0, affinity=0.5, affinity_kind="sigmoid", sigmoid=2.0,
                teacher_logit_scale=30.0, teacher_logit_bias=-6.0,
                student_logit_scale=20.0, student_logit_bias=-3.0)  # fmt: skip
    values = task.terms(batch).values()
    student, teacher = features(task, batch)
    logits = 20.0 * student[0] @ student[1].T - 3.0
    yes = 1 / (1 + np.exp(6.0 - 30.0 * teacher[0] @ teacher[1].T))
    affinity, labels = cross_entropy(logits, yes), cross_entropy(logits, np.eye(6))
    assert values["affinity"] == pytest.approx(affinity, rel=1e-5)
    assert values["sigmoid"] == pytest.approx(labels, rel=1e-5)
    assert values["loss"] == pytest.approx(0.5 * affinity + 2 * labels, rel=1e-5)
    entropy = -(yes * np.log(yes) + (1 - yes) * np.log1p(-yes)).sum() / 6
    assert values["teacher_entropy"] == pytest.approx(entropy, rel=1e-4)
    assert values["kl"] == pytest.approx(affinity - entropy, rel=1e-4)
    assert values["student_bias"] == -3.0
    assert task.clip.logit_bias == -3.0
    assert not task.encoder.logit_bias.requires_grad


def test_where_the_students_bias_starts(toy_teacher):
    learned = {"bias": FIRST_BIAS, "affinity": 0.0, "sigmoid": 1.0, "student_logit_bias": "learned"}
    first = make(toy_teacher, **learned)
    assert first.clip.logit_bias == -10.0  # SigLIP's
    assert first.encoder.logit_bias.requires_grad
    assert make(toy_teacher, **learned, teacher_logit_bias=-4.0).clip.logit_bias == -4.0
    with torch.no_grad():
        first.encoder.logit_bias.fill_(-7.5)
    assert make(toy_teacher, before=first, **learned).clip.logit_bias == -7.5
    siglip = with_logit_bias(toy_teacher, -16.5)
    remaining = make(siglip, affinity_kind="sigmoid")
    assert remaining.clip.logit_bias == -16.5
    assert make(siglip, affinity_kind="sigmoid", teacher_logit_scale=50.0).clip.logit_bias == (
        pytest.approx(-16.5 * 50.0 / siglip.logit_scale)  # what was even stays even
    )
    unused = make(siglip, bias=-2.0)
    assert unused.terms(batch_of_two()).values().get("student_bias") is None
    assert not unused.encoder.logit_bias.requires_grad


def batch_of_two():
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    return Batch(("a", "b"), pixels, CAPTIONS[:2], np.arange(2), np.arange(2))


def test_a_learnt_bias_learns_and_does_not_decay(toy_teacher, batch):
    task = make(toy_teacher, bias=0.0, affinity=0.0, sigmoid=1.0, student_logit_bias="learned")
    optimizer = make_optimizer(task.encoder, OptimConfig())
    (group,) = [g for g in optimizer.param_groups
                if any(p is task.encoder.logit_bias for p in g["params"])]  # fmt: skip
    assert group["weight_decay"] == 0
    task.terms(batch).loss.backward()
    assert task.encoder.logit_bias.grad.item() != 0


def test_a_sigmoid_without_a_bias_is_refused(toy_teacher):
    with pytest.raises(ConfigError, match=r"affinity_kind sigmoid .* set loss.teacher_logit_bias"):
        make(toy_teacher, bias=0.0, affinity_kind="sigmoid")
    with pytest.raises(ConfigError, match=r"set loss.student_logit_bias to learned"):
        make(toy_teacher, bias=0.0, affinity=0.0, sigmoid=1.0)


def test_interactive_contrast_goes_through_a_projector_where_widths_differ(toy_teacher, batch):
    same = make(toy_teacher, affinity=0.0, interactive=1.0)
    student, teacher = features(same, batch)
    scale = same.clip.logit_scale

    def contrast(anchors, others):
        logits = scale * anchors @ others.T
        return (np.logaddexp.reduce(logits, axis=1) - logits.diagonal()).mean()

    expected = (contrast(student[0], teacher[1]) + contrast(student[1], teacher[0])) / 2
    assert same.terms(batch).values()["interactive"] == pytest.approx(expected, rel=1e-5)
    narrow = make(toy_teacher, embed_dim=32, affinity=0.0, interactive=1.0)
    student, teacher = features(narrow, batch)
    projector = narrow.beside["interactive_projector"]
    projected = []
    for tower, layer in zip(student, (projector.image, projector.text), strict=True):
        x = tower @ layer.weight.detach().double().numpy().T
        projected.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    expected = (contrast(projected[0], teacher[1]) + contrast(projected[1], teacher[0])) / 2
    assert narrow.terms(batch).values()["interactive"] == pytest.approx(expected, rel=1e-5)


def test_prefixes_of_the_embedding_take_part(toy_teacher, batch):
    full = make(toy_teacher, contrastive=0.5).terms(batch).values()
    task = make(toy_teacher, contrastive=0.5, matryoshka=[8, 24])
    values = task.terms(batch).values()
    student, teacher = features(task, batch)
    scale = task.clip.logit_scale
    p = [softmax(scale * a @ b.T) for a, b in (teacher, teacher[::-1])]
    affinities, contrasts = [], []
    for length in (64, 8, 24):
        image, text = (x[:, :length] for x in student)
        image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        q = [softmax(scale * a @ b.T) for a, b in ((image, text), (text, image))]
        affinities.append(
            -sum((a * np.log(b)).sum(axis=1).mean() for a, b in zip(p, q, strict=True)) / 2
        )
        contrasts.append(-sum(np.log(x.diagonal()).mean() for x in q) / 2)
    assert values["affinity"] == pytest.approx(np.mean(affinities), rel=1e-5)
    assert values["contrastive"] == pytest.approx(np.mean(contrasts), rel=1e-5)
    assert values["loss"] == pytest.approx(np.mean(affinities) + 0.5 * np.mean(contrasts), rel=1e-5)
    assert values["kl"] == pytest.approx(full["kl"], rel=1e-6)  # logged of the whole embedding


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_a_prefix_must_be_shorter_than_the_embedding(toy_teacher):
    with pytest.raises(ConfigError, match="has 64, and the student's embeddings have 64"):
        make(toy_teacher, matryoshka=[8, 64])


def test_cached_features_serve_interactive_contrast(toy_teacher, batch):
    live = make(toy_teacher, affinity=0.0, interactive=1.0).terms(batch).values()
    task = make(toy_teacher, affinity=0.0, interactive=1.0)
    rows = [list(side.half().numpy()) for side in task.teacher.features_of(batch)]
    cached = replace(
        batch,
        image_ids=None,
        image_features=CachedRows.of(rows[0]),
        text_features=CachedRows.of(rows[1]),
    )
    task.teacher.encode_images = task.teacher.encode_texts = None  # cannot be called
    assert task.terms(cached).values()["interactive"] == pytest.approx(
        live["interactive"], abs=2e-3
    )


def test_an_ensemble_may_average_probabilities(toy_teacher, toy_teacher_of, batch):
    second, codec = toy_teacher_of(1), pixel_codec(toy_teacher)
    student = create_student({**SMALL, "embed_dim": 64}, toy_teacher)
    joined = Teacher(toy_teacher, codec, device=CPU, ensemble=[(second, 3.0, 2.0)], temperature=0.5)

    def task_of(**loss):
        config = LossConfig(student_logit_scale=20.0, **loss)
        return DistillTask(student, TaskContext(joined, codec, config, CPU))

    task = task_of(affinity_mean="probabilities")
    found = task.terms(batch).values()
    ours, _ = features(task, batch)
    probabilities = []
    for clip, weight, temperature in ((toy_teacher, 0.25, 0.5), (second, 0.75, 2.0)):
        alone = Teacher(clip, codec, device=CPU).features_of(batch)
        image, text = (side.double().numpy() for side in alone)
        logits = clip.logit_scale / temperature * image @ text.T
        probabilities.append([weight * softmax(x) for x in (logits, logits.T)])
    logits = 20.0 * ours[0] @ ours[1].T
    expected = 0.0
    for side, x in enumerate((logits, logits.T)):
        target = sum(each[side] for each in probabilities)
        expected -= 0.5 * (target * np.log(softmax(x))).sum(axis=1).mean()
    assert found["affinity"] == pytest.approx(expected, rel=1e-5)
    mean_of_logits = task_of()
    assert mean_of_logits.terms(batch).values()["affinity"] != pytest.approx(expected, rel=1e-4)
