"""Importance on general pairs and on those of a domain at once, by hand calculation."""

from __future__ import annotations

import pytest
import torch

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance import ClipShape
from tinyclip_edge.inheritance.importance import score_embedding, top
from tinyclip_edge.inheritance.mixture import mixed_scores, mixture_factors, shared_units
from tinyclip_edge.inheritance.probe import UnitScores
from tinyclip_edge.inheritance.staged_probe import StagedScores
from tinyclip_edge.models import create_student, inherit_student
from tinyclip_edge.models.calibration import WeightedCalibration, weighted
from tinyclip_edge.models.importance import importance_plan
from tinyclip_edge.models.tower_importance import unit_features

CAPTIONS = {
    "general": ("a photo of a cat", "red square", "blue circle", "the dog"),
    "domain": ("blue bicycle", "a red bicycle", "the bicycle", "photo of bicycle"),
}
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"width": 64, "layers": 2, "mlp_ratio": 1.0},
    "text_cfg": {"width": 64, "layers": 2, "mlp_ratio": 1.0},
}


def calibration_of(teacher, name):
    generator = torch.Generator().manual_seed(len(name))
    pixels = torch.randn(8, 3, 32, 32, generator=generator)
    return pixels, teacher.tokenizer([CAPTIONS[name][i % 4] for i in range(8)])


def parts_of(teacher, general, domain):
    weights = {"general": general, "domain": domain}
    return [
        WeightedCalibration(name, weight, calibration_of(teacher, name))
        for name, weight in weights.items()
    ]


def plan_for(teacher, calibration):
    student = create_student(SMALL, teacher)
    shapes = (ClipShape.of(clip.model.state_dict()) for clip in (teacher, student))
    return importance_plan(teacher, tuple(shapes), calibration)


def scores(first, second):
    return UnitScores(torch.tensor([first]), torch.tensor([second]), torch.tensor(first))


def test_scores_add_up_as_the_losses_do():
    # w / c: 0.5 / 2 and 1.5 / 0.5
    factors = mixture_factors((0.5, 1.5), (torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])))
    assert factors == (0.25, 3.0)
    mixed = mixed_scores([scores([4.0, 8.0], [1.0]), scores([1.0, 0.0], [2.0])], factors)
    assert mixed.heads.tolist() == [[4.0, 2.0]] and mixed.neurons.tolist() == [[6.25]]
    assert mixed.channels.tolist() == [4.0, 2.0] and mixed.pool_heads.tolist() == []
    stages = [
        StagedScores((torch.tensor([[a]]),), (torch.tensor([[a]]),), (torch.tensor([a]),) * 2,
                     torch.tensor([a])) for a in (4.0, 1.0)
    ]  # fmt: skip
    assert [each.tolist() for each in mixed_scores(stages, factors).channels] == [[4.0], [4.0]]


def test_a_single_calibration_keeps_its_scores_as_they_are():
    only = scores([4.0, 8.0], [1.0])
    factors = mixture_factors((0.3,), (torch.tensor([1.0, 3.0]),))
    assert factors == (1.0,) and mixed_scores([only], factors) is only


def test_alike_calibrations_are_refused():
    with pytest.raises(InheritanceError, match="all alike, so importance cannot be measured"):
        mixture_factors((1.0, 1.0), (torch.ones(2), torch.zeros(2)))


def test_a_weight_of_zero_leaves_a_calibration_out(toy_teacher):
    general, domain = parts_of(toy_teacher, 0.0, 0.7)
    assert weighted([general, domain]) == (domain,)
    assert plan_for(toy_teacher, [general, domain]) == plan_for(toy_teacher, domain.inputs)


def test_a_mixture_is_between_its_calibrations(toy_teacher):
    parts = parts_of(toy_teacher, 0.5, 0.5)
    plans = [plan_for(toy_teacher, part.inputs) for part in parts]
    assert plans[0].embed != plans[1].embed
    mixed = plan_for(toy_teacher, parts)
    assert mixed.embed not in (plans[0].embed, plans[1].embed)
    embeds = []
    for part in parts:
        model = toy_teacher.model
        pixels, ids = part.inputs
        with torch.no_grad():
            image, text = (
                unit_features(model.encode_image, pixels),
                unit_features(model.encode_text, ids),
            )
        embeds.append(score_embedding(image, text, toy_teacher.logit_scale))
    total = sum(0.5 * scores / scores.mean() for scores in embeds)
    assert mixed.embed == top(total, 16)
    # Nearly all of the weight on one is that one, and twice the same calibration is one.
    assert plan_for(toy_teacher, parts_of(toy_teacher, 1e-9, 1.0)).embed == plans[1].embed
    twice = plan_for(toy_teacher, [parts[0], parts[0]])
    assert (twice.image, twice.text, twice.embed) == (
        plans[0].image, plans[0].text, plans[0].embed
    )  # fmt: skip


def test_the_report_says_what_each_calibration_alone_would_choose(toy_teacher):
    student = create_student(SMALL, toy_teacher)
    parts = parts_of(toy_teacher, 0.25, 0.75)
    report = inherit_student(toy_teacher, student, plan="importance", calibration=parts)
    assert report.method == "uniform, by importance (general 0.25, domain 0.75)"
    notes = [note for note in report.notes if "alone chooses" in note]
    assert [note.split(" alone")[0] for note in notes] == [
        "of the units chosen in these layers, general",
        "of the units chosen in these layers, domain",
    ]


def test_shared_units_are_counted(toy_teacher):
    general, domain = (plan_for(toy_teacher, part.inputs) for part in parts_of(toy_teacher, 1, 1))
    shares = shared_units(general, domain)
    ours, theirs = general.text, domain.text
    same = len({*ours.channels} & {*theirs.channels})
    total = len(ours.channels)
    for one, other in ((ours.heads, theirs.heads), (ours.neurons, theirs.neurons)):
        for own, their in zip(one, other, strict=True):
            same, total = same + len({*own} & {*their}), total + len(own)
    assert shares["text"] == same / total < 1
    assert shared_units(general, general) == {"image": 1.0, "text": 1.0}
