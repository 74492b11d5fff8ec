"""A mapping from the teacher's weights learnt while training, then folded into ordinary weights."""

from __future__ import annotations

import math

import pytest

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models import load_clip, weights_hash
from tinyclip_edge.train import distill
from toy_runs import KilledError, Watcher, events_of, kill, losses

pytestmark = pytest.mark.usefixtures("no_report")

MAPPED = {"plan": "mapped", "map_from": "evenly", "map_steps": 6}


@pytest.fixture
def mapped(make):
    def config(**sections):
        inherit = {**MAPPED, **sections.pop("inherit", {})}
        optim = {"warmup": 2, **sections.pop("optim", {})}
        return make(inherit=inherit, optim=optim, **sections)

    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder that the uninterrupted run is put into once."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def uninterrupted(whole, mapped):
    if not whole.exists():
        distill(mapped(), whole, observer=Watcher())
    return whole


def test_a_mapping_is_learnt_and_then_the_weights(uninterrupted):
    (fold,) = events_of(uninterrupted, "fold")
    assert fold["step"] == 6
    assert fold["width"] > 0
    assert fold["depth"] > 0
    (inherited,) = events_of(uninterrupted, "inherit")
    assert inherited["method"] == "mapped, starting as uniform, evenly layers"
    evaluated = {e["step"]: e for e in events_of(uninterrupted, "eval") if e["who"] == "student"}
    assert list(evaluated) == [0, 6, 12]
    rates = {e["step"]: e["lr"] for e in events_of(uninterrupted, "step")}
    # 2 steps of warm-up: a tenth of the schedule, then 0.55 of it, then all of it
    schedule = [1e-3 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 10)) for step in range(12)]
    shares = [rates[step] / schedule[step - 1] for step in (6, 7, 8, 9)]
    assert shares == pytest.approx([1.0, 0.1, 0.55, 1.0])


def test_step_0_is_the_selection_and_the_teacher_stays_as_it_is(
    mapped, uninterrupted, tmp_path, toy_teacher_folder
):
    before = weights_hash(load_clip(str(toy_teacher_folder)).model)
    other = tmp_path / "evenly"
    distill(mapped(inherit={"plan": "evenly"}, optim={"steps": 1, "warmup": 0}), other)
    assert losses(other)[1] == losses(uninterrupted)[1]
    evaluations = [events_of(folder, "eval")[1] for folder in (other, uninterrupted)]
    assert evaluations[0] == evaluations[1]
    assert weights_hash(load_clip(str(toy_teacher_folder)).model) == before


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize("killed", [slow(3), 6, slow(7), 10])
def test_a_kill_before_or_after_the_fold_is_as_if_it_had_not_been(
    mapped, uninterrupted, tmp_path, killed
):
    cut = tmp_path / "cut"
    config = mapped(run={"save_every": 2})
    with pytest.raises(KilledError):
        distill(config, cut, observer=Watcher(killed, kill))
    watcher = Watcher()
    distill(config, cut, resume=True, observer=watcher)
    assert 0 < killed - watcher.reports[0].step + 1 <= 2
    assert losses(cut) == losses(uninterrupted)
    digests = {weights_hash(load_clip(str(folder)).model) for folder in (cut, uninterrupted)}
    assert len(digests) == 1
    assert [e["step"] for e in events_of(cut, "fold")] == [6]


def test_more_steps_would_move_the_fold(mapped, uninterrupted):
    with pytest.raises(ConfigError, match=r"must not change: optim\.steps \(was 12, is 20\)"):
        distill(mapped(optim={"steps": 20}), uninterrupted, resume=True)


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        (
            {"inherit": {"map_steps": 12}},
            ConfigError,
            "inherit.map_steps gives the mapping 12 of the run's 12 steps",
        ),
        (
            {"student": {"model": "TinyCLIP-auto-ViT-22M-32-Text-10M"}},
            ConfigError,
            "is a recipe with masks, which cannot be combined with inherit.plan mapped",
        ),
    ],
)
def test_what_cannot_be_mapped_is_refused_before_it_starts(
    mapped, tmp_path, sections, error, message
):
    with pytest.raises(error) as caught:
        distill(mapped(**sections), tmp_path / "run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
