"""A frozen tower in a run: its configuration, its plan, its gradients and its mode."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from families import family
from tinyclip_edge.config import RunConfig
from tinyclip_edge.errors import ConfigError, InheritanceError
from tinyclip_edge.inheritance.gates import ClipGates
from tinyclip_edge.inheritance.sparsity import check_reachable
from tinyclip_edge.models import create_student, inherit_student, save_local_dir
from tinyclip_edge.models.clip import count_parameters
from tinyclip_edge.models.cost import traced_macs
from tinyclip_edge.models.frozen import freeze, tower_parameters
from tinyclip_edge.models.pruned import clip_units
from tinyclip_edge.train.memory import student_bytes
from tinyclip_edge.train.preflight.dry_run import plan_run
from tinyclip_edge.train.stages.student import resolve_stages
from tinyclip_edge.train.tasks.encoders import PairEncoder
from tinyclip_edge.train.tasks.grad_cache import GradCache

NARROW = {"vision_cfg": {"width": 32, "layers": 2}}
BASE = {
    "teacher": {"model": "ViT-B-32"},
    "student": {"model": NARROW},
    "data": {"train": "pairs.csv"},
    "optim": {"batch_size": 8, "steps": 10},
}


def configured(**sections):
    return RunConfig.model_validate({**BASE, **sections})


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"inherit": {"image": "frozen", "text": "frozen"}}, "both towers are frozen"),
        ({"inherit": {"image": "fresh", "text": "fresh"}}, "set inherit.method=none instead"),
        ({"inherit": {"method": "none", "text": "frozen"}}, "goes with inherit.method=uniform"),
        (
            {"inherit": {"method": "masks", "image": "fresh"}, "student": {"keep": 0.5}},
            "inherit.image=fresh goes with inherit.method=uniform: masks start from the teacher's",
        ),
        (
            {"inherit": {"text": "fresh"}, "student": {}, "stages": [{"student": NARROW}] * 2},
            "inherit.text is fresh, so each stage would start with a random text tower",
        ),
    ],
)
def test_combinations_without_meaning(sections, line):
    with pytest.raises(ValidationError) as error:
        configured(**sections)
    (fault,) = error.value.errors()
    assert line in fault["msg"] and "\n" not in fault["msg"]


def test_a_recipe_of_masks_has_no_fresh_tower():
    config = configured(
        student={"model": "TinyCLIP-auto-ViT-63M-32-Text-31M"}, inherit={"text": "fresh"}
    )
    with pytest.raises(ConfigError, match="recipe with masks, which start from the teacher's"):
        resolve_stages(config, family("ViT"))


def test_gates_of_a_whole_tower_stay_open():
    units = clip_units(family("XLM-R"))
    gates = ClipGates(units, whole=["text"])
    for log_alpha in gates.parameters():
        log_alpha.data.fill_(-2.0)
    for masks in (gates.sample(), gates.binarised()):
        assert all(bool((each == 1).all()) for each in (masks.text.hidden, *masks.text.heads))
        assert int(masks.image.hidden.count_nonzero()) < units.image.width
    alone = ClipGates(units).image
    alone.load_state_dict(gates.image.state_dict())
    expected = alone.expected_parameters() + units.text.prunable
    assert gates.expected_parameters().item() == pytest.approx(expected.item())
    gates.sparsity().backward()
    assert gates.image.hidden.grad is not None and gates.text.hidden.grad is None


def test_a_target_below_a_frozen_tower_is_refused():
    units = clip_units(family("ViT"))
    share = units.text.prunable / units.prunable
    check_reachable(units, share + 0.3, whole=["text"])
    with pytest.raises(InheritanceError, match=f"the frozen text tower has {share:.1%} of"):
        check_reachable(units, share, whole=["text"])
    with pytest.raises(InheritanceError, match="uniform_shapes changes both towers"):
        check_reachable(units, share + 0.3, whole=["text"], uniform_shapes=True)


def test_the_plan_of_masks_takes_nothing_from_a_frozen_tower(tmp_path):
    teacher = family("ViT")
    save_local_dir(tmp_path / "teacher", teacher)
    units, count = clip_units(teacher), count_parameters(teacher.model)
    inherit = {"method": "masks", "text": "frozen"}
    config = configured(
        teacher={"model": str(tmp_path / "teacher")},
        student={"keep": 0.8},
        inherit=inherit,
        masks={"lr": 2.0},
    )
    (stage,) = plan_run(config).stages
    assert stage.text_parameters == count.text
    assert stage.image_parameters == count.image - round(0.2 * units.prunable)
    assert stage.student == "80% by masks, text tower frozen"


def test_the_plan_counts_a_frozen_tower_once(tmp_path):
    teacher = family("XLM-R")
    save_local_dir(tmp_path / "teacher", teacher)
    config = configured(teacher={"model": str(tmp_path / "teacher")}, inherit={"text": "frozen"})
    (stage,) = plan_run(config).stages
    student = create_student(NARROW, teacher, frozen=["text"])
    count = count_parameters(student.model)
    image, text = traced_macs(student.model.to("meta"), student.config["model_cfg"])
    assert stage.student == "student, text tower frozen"
    assert stage.pflop == pytest.approx(2 * (3 * image + text) * 80 / 1e15)
    still = count.text + count.token_embedding
    assert stage.student_bytes == 4 * (4 * (count.total - still) + still)
    plain = plan_run(config.model_copy(update={"inherit": configured().inherit}))
    assert plain.stages[0].student_bytes == 16 * count.total
    assert plain.stages[0].activation_bytes > stage.activation_bytes


def test_bytes_of_an_average_cover_frozen_weights():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    optim = configured(optim={"ema": 0.9}).optim
    assert student_bytes(model, optim) == 4 * (6 * 5 + 2 * 2)


@pytest.mark.parametrize("whole", ["image", "text"])
def test_only_the_other_tower_has_gradients(whole):
    """In parts of a batch too; statistics and dropout of the frozen one stay off."""
    teacher = family("XLM-R")
    student = create_student({}, teacher)
    inherit_student(teacher, student, modes={whole: "frozen"})
    freeze(student.model, [whole])
    encoder = PairEncoder(student)
    encoder.train()
    tower = student.model.visual if whole == "image" else student.model.text
    other = student.model.text if whole == "image" else student.model.visual
    assert not any(module.training for module in tower.modules())
    assert other.training
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = student.tokenizer(["a cat", "a dog", "the red bird", "rain at night"])
    parts = GradCache(lambda rows: encoder(pixels[rows], tokens[rows]), encoder, 4, 2)
    image, text, scale, _ = parts.first()
    (scale * image @ text.T).logsumexp(dim=1).sum().backward()
    parts.second()
    cached = {n: p.grad.clone() for n, p in student.model.named_parameters() if p.grad is not None}
    assert all(p.grad is None for p in tower_parameters(student.model, whole))
    student.model.zero_grad()
    image, text, scale, _ = encoder(pixels, tokens)
    (scale * image @ text.T).logsumexp(dim=1).sum().backward()
    for name, gradient in cached.items():
        torch.testing.assert_close(
            student.model.get_parameter(name).grad, gradient, rtol=1e-3, atol=1e-4
        )
    assert cached
