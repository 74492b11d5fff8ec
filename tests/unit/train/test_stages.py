"""The student at the start of a stage: recipes, calibration pairs, copies that learn."""

from __future__ import annotations

import re

import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.train.stages.student import (
    calibration_pairs,
    calibrations,
    dense_copy,
    resolve_stages,
    start_student,
)

SMALL = {
    "vision_cfg": {"width": 64, "layers": 2},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2},
}


@pytest.fixture
def config(tmp_path):
    shard = write_shard(tmp_path / "train.tar", toy_samples())

    def make(**sections):
        base = {"teacher": {"model": "t"}, "data": {"train": str(shard)}}
        return RunConfig.model_validate({**base, **sections})

    return make


@pytest.mark.parametrize("method", ["uniform", "masks"])
def test_a_recipe_of_the_zoo_is_its_stages(config, toy_teacher, method):
    recipe = "TinyCLIP-auto-ViT-22M-32-Text-10M"
    run = config(student={"model": recipe}, inherit={"method": method}, optim={"steps": 1000})
    stages = resolve_stages(run, toy_teacher)
    # published: three stages to a quarter of ViT-B/32
    assert [(s.number, s.keep, s.began, s.end) for s in stages] == [
        (1, 0.75, 0, 1000), (2, 0.5, 1000, 2000), (3, 0.25, 2000, 3000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "method", "message"),
    [
        ("TinyCLIP-auto-ViT-22M-32-Text-10M", "none", "is a recipe with masks"),
        ("starter-50", "masks", "set student.keep or stages instead of student.model"),
    ],
)
def test_a_model_that_contradicts_its_method(config, toy_teacher, model, method, message):
    with pytest.raises(ConfigError, match=message):
        resolve_stages(config(student={"model": model}, inherit={"method": method}), toy_teacher)


# The toy teacher has 4 + 3 layers: this cut leaves 5 of 7, and one half is less far from there.
CUT = {"student": {"vision_cfg": {"layers": 3}, "text_cfg": {"layers": 2}}}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"keep": 0.5}], "keep 0.5 cannot be reached: gates have 5.3 to move"),
        ([CUT, {"keep": 0.5}], "stage 2: keep 0.5 cannot be reached: gates have 4.6 to move"),
        ([{"keep": 0.75}, {"keep": 0.5}], "stage 1: keep 0.75 cannot be reached: gates have 4.3"),
    ],
)
def test_gates_that_cannot_close_in_time_are_refused(config, toy_teacher, stages, message):
    masks = {"lr": 0.05, "prune": 10.0, "extra": 0.05, "warmup": 5.0}
    run = config(inherit={"method": "masks"}, stages=stages, masks=masks, optim={"steps": 400})
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve_stages(run, toy_teacher)


def test_calibration_pairs_depend_on_the_seed_alone(config, toy_teacher):
    run = config(student={"model": SMALL}, inherit={"calibration": 20})
    pixels, ids = calibration_pairs(run, toy_teacher)
    assert (pixels.shape, ids.shape) == ((20, 3, 32, 32), (20, 16))
    assert pixels.dtype == torch.float32
    # white is (1 - 0.5) / 0.25, black (0 - 0.5) / 0.25
    assert pixels.max().item() == pytest.approx(2.0)
    assert pixels.min().item() >= -2.0
    again, _ = calibration_pairs(run, toy_teacher)
    other, _ = calibration_pairs(run.model_copy(update={"seed": 1}), toy_teacher)
    assert torch.equal(pixels, again)
    assert not torch.equal(pixels, other)


def test_a_domain_of_few_pictures_and_texts_is_a_calibration(config, toy_teacher, tmp_path):
    write_shard(tmp_path / "domain.tar", toy_samples()[:6])
    (tmp_path / "names.txt").write_text("cat\ndog\nred bicycle\n")
    domain = {"weight": 3, "images": str(tmp_path / "domain.tar"),
              "texts": str(tmp_path / "names.txt")}  # fmt: skip
    inherit = {"plan": "importance", "calibration": 16,
               "importance": {"general": 1, "domain": domain}}  # fmt: skip
    run = config(student={"model": SMALL}, inherit=inherit)
    general, own = calibrations(run, toy_teacher)
    assert [str(part) for part in (general, own)] == ["general 1", "domain 3"]
    assert torch.equal(general.inputs[0], calibration_pairs(run, toy_teacher)[0])
    pixels, ids = own.inputs
    assert len(pixels) == len(ids) == 16
    assert len(pixels.flatten(1).unique(dim=0)) == 6 and len(ids.unique(dim=0)) == 3
    report = start_student(run, toy_teacher).inherited
    assert report.method == "uniform, by importance (general 1, domain 3)"
    assert sum("alone chooses" in note for note in report.notes) == 2


def test_only_one_part_is_what_importance_was(config, toy_teacher, tmp_path):
    def plan(**importance):
        section = {"importance": importance} if importance else {}
        inherit = {"plan": "importance", "calibration": 16, **section}
        start = start_student(config(student={"model": SMALL}, inherit=inherit), toy_teacher)
        return start.clip.model.state_dict(), start.inherited

    weights, report = plan()
    only, same = plan(general=0.25)
    assert same == report and all(torch.equal(only[key], weights[key]) for key in weights)
    pairs = str(tmp_path / "train.tar")
    domain, same = plan(domain={"pairs": pairs})
    assert same == report and all(torch.equal(domain[key], weights[key]) for key in weights)


def test_the_plan_importance_is_measured_on_pairs(config, toy_teacher):
    run = config(student={"model": SMALL}, inherit={"plan": "importance", "calibration": 16})
    first = start_student(run, toy_teacher)
    assert "importance" in first.inherited.method
    ours = first.clip.model.visual.class_embedding.detach()
    theirs = toy_teacher.model.visual.class_embedding.detach()
    assert ours.shape == (64,)
    assert torch.isin(ours, theirs).all()  # channels of the teacher, not its front half
    assert not torch.equal(ours, theirs[:64])


def test_masks_begin_with_a_copy_that_learns(toy_teacher):
    toy_teacher.model.requires_grad_(False)
    copy = dense_copy(toy_teacher)
    assert all(p.requires_grad for p in copy.model.parameters())
    with torch.no_grad():
        copy.model.visual.proj.zero_()
    assert toy_teacher.model.visual.proj.abs().sum() > 0
    assert not any(p.requires_grad for p in toy_teacher.model.parameters())
