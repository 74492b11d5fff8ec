"""Two passes over parts of a batch give the gradient of the whole batch in one."""

import numpy as np
import pytest
import torch

from tinyclip_edge.config import LossConfig
from tinyclip_edge.data import Batch
from tinyclip_edge.models import create_student
from tinyclip_edge.models.logit_bias import with_logit_bias
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskContext
from tinyclip_edge.train.tasks.encoders import EncodedPairs, pixel_codec
from tinyclip_edge.train.tasks.grad_cache import GradCache
from tinyclip_edge.train.tasks.teacher import Teacher

VIT = {"width": 64, "layers": 2}
RESNET = {"layers": [1, 1, 1, 1], "width": 16, "head_width": 16}
TEXT = {"width": 64, "heads": 1, "layers": 2}
CAPTIONS = ("cat", "a dog", "the red square", "blue circle", "a photo of the bicycle", "red dog",
            "a cat", "two dogs", "green", "the blue square")  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch(tuple("abcdefghij"), pixels, CAPTIONS, np.arange(10), np.arange(10))


def gradients(teacher, batch, *, parts, vision=VIT, checkpointing=False, **loss):
    torch.manual_seed(0)
    student = create_student({"vision_cfg": vision, "text_cfg": TEXT}, teacher)
    student = with_logit_bias(student, 0.0)
    codec = pixel_codec(teacher)
    frozen = Teacher(teacher, codec, device=CPU)
    task = DistillTask(student, TaskContext(frozen, codec, LossConfig(**loss), CPU, parts))
    student.model.requires_grad_(True)
    student.model.set_grad_checkpointing(checkpointing)
    task.train()
    terms = task.terms(batch)
    terms.loss.backward()
    if terms.after_backward is not None:
        terms.after_backward()
    named = [*task.encoder.named_parameters(), *task.beside.named_parameters()]
    grads = {name: p.grad.clone() for name, p in named if p.grad is not None}
    return float(terms.loss.detach()), grads, task


@pytest.mark.parametrize("parts", [1, 3, 5, 9])
@pytest.mark.parametrize(
    "loss",
    [
        {"teacher_logit_scale": 50.0},
        {"contrastive": 0.5, "student_logit_scale": "learned"},
        {"affinity": 0.0, "feature": 10.0},
        {
            "affinity": 0.0,
            "sigmoid": 1.0,
            "student_logit_scale": "learned",
            "student_logit_bias": "learned",
        },
    ],
    ids=["affinity", "learned scale", "feature", "sigmoid"],
)
def test_the_gradient_is_that_of_the_full_batch(toy_teacher, batch, parts, loss):
    full, expected, _ = gradients(toy_teacher, batch, parts=None, **loss)
    values, actual, task = gradients(toy_teacher, batch, parts=parts, **loss)
    assert values == pytest.approx(full, rel=1e-6)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    assert task.micro_batch == parts


def test_a_part_of_the_full_batch_takes_one_pass(toy_teacher, batch):
    task = gradients(toy_teacher, batch, parts=10)[2]
    assert task.terms(batch).after_backward is None


def test_only_a_part_is_in_memory(toy_teacher, batch):
    """Activations that autograd saves for the second pass are those of one part."""
    shapes = {}
    for parts in (None, 2):
        task = gradients(toy_teacher, batch, parts=parts)[2]
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t
        ):
            terms = task.terms(batch)
        shapes[parts] = sum(saved)
        assert (terms.after_backward is None) == (parts is None)
    assert shapes[2] < 0.1 * shapes[None]


def test_checkpointing_changes_nothing_but_memory(toy_teacher, batch):
    full, expected, _ = gradients(toy_teacher, batch, parts=None)
    values, actual, _ = gradients(toy_teacher, batch, parts=3, checkpointing=True)
    assert values == pytest.approx(full, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_chance_falls_alike_in_every_part_and_pass():
    module, samples = torch.nn.Linear(3, 3), []

    def forward(rows):
        noise = torch.rand(())
        samples.append(float(noise))
        x = module(torch.ones(rows.stop - rows.start, 3)) * noise
        return EncodedPairs(x, x, noise, noise)

    passes = GradCache(forward, module, 6, 3)
    torch.manual_seed(4)
    image, text, *_ = passes.first()
    (image.sum() + text.sum()).backward()
    passes.second()
    torch.manual_seed(4)
    assert samples == [float(torch.rand(()))] * 6
    assert float(torch.rand(())) == pytest.approx(float(torch.rand(1, generator=_after(4))))


def _after(seed):
    """A generator that has drawn twice: once by the step, once by the line before."""
    generator = torch.Generator().manual_seed(seed)
    torch.rand((), generator=generator)
    return generator


def test_batch_norms_count_a_batch_once(toy_teacher, batch):
    task = gradients(toy_teacher, batch, parts=5, vision=RESNET)[2]
    counted = [b for name, b in task.encoder.named_buffers() if name.endswith("batches_tracked")]
    assert counted
    assert {int(count) for count in counted} == {2}  # two parts
