"""The benchmark of ways to shrink compares like with like."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tinyclip_edge.config import load_config
from tinyclip_edge.models import count_parameters, create_student, load_clip
from tinyclip_edge.models.pruned import clip_units
from tinyclip_edge.train.stages.student import resolve_stages


@pytest.fixture(scope="module")
def paths():
    import shrink_paths

    return shrink_paths


@pytest.fixture(scope="module")
def teacher():
    return load_clip("starter-teacher")


@pytest.mark.parametrize("question", ["half", "quarter"])
def test_all_ways_take_the_same_steps_on_the_same_pairs(paths, teacher, question):
    runs = [load_config(name, more) for name, more in paths.ways(question).values()]
    assert {resolve_stages(run, teacher)[-1].end for run in runs} == {paths.STEPS[question]}
    for section in ("data", "loss"):
        assert getattr(runs[0], section) == getattr(runs[1], section)
    assert {(run.optim.lr, run.optim.batch_size, run.seed) for run in runs} == {(1e-3, 128, 0)}


def test_masks_leave_as_many_parameters_as_the_uniform_student(paths, teacher):
    masks, uniform = (load_config(name, more) for name, more in paths.ways("half").values())
    with torch.random.fork_rng():
        student = create_student(uniform.student.model, teacher)
    share = clip_units(student).prunable / clip_units(teacher).prunable
    assert masks.student.keep == pytest.approx(share, abs=0.005)


def test_one_stage_goes_to_the_last_shape_of_three(paths, teacher):
    three, one = (load_config(name, more) for name, more in paths.ways("quarter").values())
    shapes = [three.stages[-1].student, one.student.model]
    assert shapes[0] == shapes[1]
    sizes = [count_parameters(create_student(s.student, teacher).model) for s in three.stages]
    units = [clip_units(create_student(s.student, teacher)).prunable for s in three.stages]
    assert [round(u / clip_units(teacher).prunable, 2) for u in units] == [0.75, 0.5, 0.25]
    assert sizes[0].encoders > sizes[1].encoders > sizes[2].encoders


def test_another_teacher_is_that_of_all_ways(paths, monkeypatch):
    monkeypatch.setattr(paths, "cached_run", lambda config, *_: config)
    arguments = SimpleNamespace(question="half", teacher="0123abcd", set=[], work=Path("work"))
    for model in ("runs/plain/final", None):
        arguments.teacher_model = model
        configs = [paths.run(arguments, way, 0, "starter:val") for way in paths.ways("half")]
        assert {config.teacher.model for config in configs} == {model or "starter-teacher"}


def test_the_summary_gives_mean_and_deviation(paths):
    records = [
        {"way": "masks", "steps": 4, "curve": {"4": {"r1": r1}}, "encoder_parameters": 10}
        for r1 in (1.0, 2.0, 6.0)
    ]
    row = paths.summarise(records)["masks"]
    # (4 + 1 + 9) / 2 = 7
    assert (row["recall_at_1"], row["deviation"]) == (3.0, pytest.approx(7**0.5))
