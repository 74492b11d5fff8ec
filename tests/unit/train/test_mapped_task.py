"""The mapping in the task: its gradient, the student's weights, what the optimizer changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call

from families import family
from tinyclip_edge.config import InheritConfig, LossConfig, OptimConfig
from tinyclip_edge.data import Batch
from tinyclip_edge.models import create_student, load_clip, save_local_dir
from tinyclip_edge.models.student import plan_student
from tinyclip_edge.train.optimizer import make_optimizer
from tinyclip_edge.train.tasks.distill_task import TaskContext
from tinyclip_edge.train.tasks.encoders import pixel_codec, tokenize
from tinyclip_edge.train.tasks.mapped_task import MappedTask
from tinyclip_edge.train.tasks.teacher import Teacher

CPU = torch.device("cpu")
CAPTIONS = ("cat", "a dog", "the red square", "blue circle", "a photo of the bicycle", "red dog")
STUDENT = {
    "vision_cfg": {"width": 64, "layers": 2, "mlp_ratio": 2.0},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2, "mlp_ratio": 2.0},
}
OPTIM = OptimConfig(lr=1e-2, batch_size=6, steps=10)


def batch_of(size):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, size, size), dtype=torch.uint8, generator=generator)
    return Batch(tuple("abcdef"), pixels, CAPTIONS, np.arange(6), np.arange(6))


def make(teacher, shape, *, parts=None, checkpointing=False, **loss):
    torch.manual_seed(0)
    student, codec = create_student(shape, teacher), pixel_codec(teacher)
    inheritance = plan_student(teacher, student, plan="evenly")
    student.model.load_state_dict(inheritance.select(student.model.state_dict())[0])
    context = TaskContext(
        Teacher(teacher, codec, device=CPU), codec, LossConfig(**loss), CPU, parts
    )
    student.model.set_grad_checkpointing(checkpointing)
    mapping = inheritance.mapping(student.model.state_dict())
    return MappedTask(student, context, mapping, InheritConfig(plan="mapped", map_lr=0.01))


def backward(task, batch):
    task.train()
    terms = task.terms(batch)
    terms.loss.backward()
    terms.after_backward()
    return {name: p.grad for name, p in task.mapping.named_parameters()}


@pytest.fixture
def task(toy_teacher):
    return make(toy_teacher, STUDENT)


@pytest.fixture
def batch():
    return batch_of(32)


def test_all_factors_learn_and_no_mapped_weight(task, batch):
    factors = backward(task, batch)
    assert len(factors) > 20
    for name, gradient in factors.items():
        assert gradient.abs().max() > 0, name
    assert all(p.grad is None for p in task.encoder.parameters())


@pytest.mark.parametrize(
    "options", [{}, {"parts": 2}, {"checkpointing": True}], ids=["whole", "parts", "checkpointing"]
)
def test_the_gradient_is_that_through_the_mapping(toy_teacher, batch, options):
    """Torch's own way: the student run on the mapping's output in place of its weights."""
    task = make(toy_teacher, STUDENT, **options)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for factor in task.mapping.parameters():
            factor.add_(0.02 * torch.randn(factor.shape, generator=generator))
    task.after_step()
    ours = backward(task, batch)
    weights = task.mapping()
    model = task.clip.model.eval()
    pixels = task.teacher.codec.restore(batch.pixels, 32)
    ids = task.clip.tokenizer(list(CAPTIONS))

    def encoded(method, inputs):
        class Tower(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, x):
                return getattr(self.model, method)(x)

        prefixed = {f"model.{key}": weight for key, weight in weights.items()}
        return torch.nn.functional.normalize(functional_call(Tower(), prefixed, inputs), dim=-1)

    image, text = encoded("encode_image", pixels), encoded("encode_text", ids)
    teacher = [f.detach() for f in task.teacher.features_of(batch)]
    scale = task.teacher.scale
    targets = scale * teacher[0] @ teacher[1].T
    logits = scale * image @ text.T
    loss = -0.5 * sum(
        (t.softmax(-1) * x.log_softmax(-1)).sum(-1).mean()
        for t, x in ((targets, logits), (targets.T, logits.T))
    )
    theirs = torch.autograd.grad(loss, list(task.mapping.parameters()))
    for (name, gradient), expected in zip(ours.items(), theirs, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=2e-5, msg=name)


def test_the_student_is_the_mapping_after_each_step(task, batch, tmp_path):
    optimizer = make_optimizer(task.encoder, OPTIM, task.groups(OPTIM))
    start = {k: v.clone() for k, v in task.clip.model.state_dict().items()}
    for _ in range(2):
        backward(task, batch)
        optimizer.step()
        optimizer.zero_grad()
        task.after_step()
    state, weights = task.clip.model.state_dict(), task.mapping()
    for key, weight in weights.items():
        assert torch.equal(state[key], weight), key
    moved = {key for key in state if not torch.equal(state[key], start[key])}
    outside = {"logit_scale"} | {
        f"{norm}.{part}"
        for norm in ("visual.ln_pre", "visual.ln_post", "ln_final")
        for part in ("weight", "bias")
    }
    assert moved == set(state) - outside  # selected norms stay, all else is made anew
    # Folded: an ordinary model folder, opened without the mapping.
    save_local_dir(tmp_path / "student", task.clip)
    folded = load_clip(str(tmp_path / "student"))
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    mapped = functional_call(task.clip.model.eval(), weights, (pixels,))[0]
    torch.testing.assert_close(
        folded.model.encode_image(pixels, normalize=True), mapped, rtol=0, atol=1e-5
    )


def test_a_rate_of_their_own_and_the_norm_of_factors(task):
    groups = task.groups(OPTIM)
    assert all((group["constant_lr"], group["weight_decay"]) == (True, 0.0) for group in groups)
    rates = {p.shape[-1]: group["lr"] for group in groups for p in group["params"] if p.ndim == 3}
    # rows of 64 embeddings, 128 channels and 512 neurons; map_lr is 0.01
    assert rates == pytest.approx({64: 0.00125, 128: 8.8388e-4, 512: 4.4194e-4}, rel=1e-4)
    layers = {p.shape[-1]: group["lr"] for group in groups for p in group["params"] if p.ndim == 2}
    assert layers == pytest.approx({4: 0.005, 3: 0.0057735}, rel=1e-4)
    mapped = {id(p) for group in groups for p in group["params"]}
    assert mapped == {id(p) for p in task.mapping.parameters()}
    assert mapped <= {id(p) for p in task.clipped()}


def test_a_frozen_tower_is_no_part_of_the_mapping(toy_teacher):
    shape = {"vision_cfg": STUDENT["vision_cfg"]}
    student = create_student(shape, toy_teacher, frozen=("text",))
    planned = plan_student(toy_teacher, student, plan="evenly", modes={"text": "frozen"})
    mapping = planned.mapping(student.model.state_dict())
    assert all(key.startswith("visual.") for key in mapping.keys)
    assert not any("text" in name for name in mapping.state_dict())


def test_a_skipped_step_changes_nothing(task, batch):
    before = {k: v.clone() for k, v in task.clip.model.state_dict().items()}
    task.terms(batch)  # no backward pass: the loss was not finite
    task.after_step()
    assert all(torch.equal(v, before[k]) for k, v in task.clip.model.state_dict().items())
    assert backward(task, batch)


@pytest.mark.parametrize(
    "name",
    ["SigLIP 2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("EVA02", "PE-Core", "CLIPA"))],
)
def test_towers_of_timm_and_texts_without_a_causal_mask(name):
    """Every factor of a fused or separate qkv, an attention pool and its two streams learns."""
    teacher = family(name)
    vision = {"width": 96 if name == "PE-Core" else 32, "layers": 2}
    shape = {"vision_cfg": vision, "text_cfg": {"width": 32, "layers": 2, "heads": 2}}
    task = make(teacher, shape, teacher_logit_scale=50.0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # biases that start at zero have no direction
        for part in task.mapping.buffers():
            if part.is_floating_point():
                part.add_(0.05 * torch.randn(part.shape, generator=generator))
    task.after_step()
    for factor, gradient in backward(task, batch_of(teacher.image_size)).items():
        assert gradient.abs().max() > 0, factor


def test_the_start_of_each_family_is_its_selection():
    teacher = family("SigLIP 2")
    task = make(teacher, {"vision_cfg": {"width": 32, "layers": 2}, "text_cfg": {"layers": 2}})
    state = task.clip.model.state_dict()
    for key, weight in task.mapping().items():
        assert torch.equal(weight, state[key]), key
    ids = tokenize(task.clip.tokenizer, CAPTIONS)
    assert task.encoder.encode_text(ids).shape[0] == len(CAPTIONS)
