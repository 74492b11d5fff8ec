"""Masks learnt while training, pruned at the target, in one stage and in several."""

from __future__ import annotations

import json

import pytest
import torch

from tinyclip_edge.errors import ConfigError, InheritanceError
from tinyclip_edge.models import count_parameters, load_clip, weights_hash
from tinyclip_edge.models.pruned import clip_units
from tinyclip_edge.train import distill
from tinyclip_edge.train.tasks.mask_task import MaskedTask
from toy_runs import KilledError, Watcher, events_of, kill, losses

QUICK = {"lr": 0.4, "lambda_lr": 1.0, "log_every": 4, "warmup": 0.4, "prune": 18, "extra": 4}
# The toy teacher's 4 + 3 layers of width W = 128: 4 W^2 + 4 W attention, 8 W^2 + 5 W feed-forward.
PRUNABLE = 7 * (12 * 128**2 + 9 * 128)


@pytest.fixture
def masked(make):
    """Masks to one half in 26 steps, or as ``stages`` say."""

    def config(**sections):
        values = {
            "inherit": {"method": "masks"},
            "optim": {"steps": 26, "lr": 5e-4, "warmup": 3},
            "run": {"save_every": 5},
            **({} if "stages" in sections else {"student": {"keep": 0.5}}),
            **sections,
        }
        return make(**{**values, "masks": {**QUICK, **sections.get("masks", {})}})

    return config


def prunable(clip):
    """Parameters of the blocks' matrices and their biases, counted from the weights."""
    parts = (".attn.", ".mlp.")
    return sum(p.numel() for n, p in clip.model.named_parameters() if any(x in n for x in parts))


def test_masks_meet_the_target_and_leave_a_dense_student(masked, tmp_path):
    out, watcher = tmp_path / "run", Watcher()
    result = distill(masked(), out, observer=watcher)
    (prune,) = events_of(out, "prune")
    assert (prune["step"], prune["met"]) == (18, True)
    clip = load_clip(str(out))
    assert prunable(clip) / PRUNABLE == pytest.approx(0.5, abs=0.01)
    assert prunable(clip) / PRUNABLE == pytest.approx(prune["kept"], abs=1e-9)
    assert prune["encoder_parameters"] == count_parameters(clip.model).encoders
    assert any("step 18: pruned to" in message for message in watcher.messages)
    assert set(result.evaluations) == {0, 18, 26}
    steps = {e["step"]: e for e in events_of(out, "step")}
    assert {"sparsity", "sparsity_target", "sparsity_price", "lambda_1"} <= set(steps[18])
    assert "sparsity" not in steps[19]
    # 18 steps, warm-up over 0.4 of them: 7; the target stands at one half from then on
    assert steps[1]["sparsity_target"] == 0.0
    assert steps[4]["sparsity_target"] == pytest.approx(0.5 * 3 / 7, rel=1e-5)
    assert steps[8]["sparsity_target"] == pytest.approx(0.5)
    parts = steps[10]["affinity"] + steps[10]["sparsity_price"]
    assert steps[10]["loss"] == pytest.approx(parts, rel=1e-5)
    # a tenth of the cosine's rate right after the prune
    assert steps[19]["lr"] < 0.15 * steps[18]["lr"]
    assert {p.name for p in (out / "report").iterdir()} == {
        "loss.png", "sparsity.png", "units.png", "gates.png", "report.html",
    }  # fmt: skip
    gates = events_of(out, "gates")
    assert [e["step"] for e in gates] == [1, 4, 8, 12, 16, 18]
    assert (gates[0]["image"]["heads"], gates[0]["kept"]) == ([2, 2, 2, 2], 1.0)
    assert sum(gates[0]["image"]["log_alpha"]) == 128 + 4 * (2 + 512)


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_equal_shapes_open_with_open_clip(masked, tmp_path):
    import open_clip

    out = tmp_path / "run"
    distill(masked(student={"keep": 0.5, "uniform_shapes": True}, run={"save_every": 0}), out)
    clip = load_clip(str(out))
    assert prunable(clip) / PRUNABLE == pytest.approx(0.5, abs=0.01)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out / 'student'}")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = (m.eval().encode_image(pixels) for m in (clip.model, model))
    assert torch.allclose(ours, theirs, atol=1e-6)


STAGES = [{"keep": 0.75}, {"keep": 0.5, "steps": 24, "lr": 3e-4}]


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "killed",
    [slow(10), slow(21), slow(33), slow(47)],
    ids=["masks", "dense", "masks 2", "dense 2"],
)
@pytest.mark.usefixtures("no_report")
def test_a_kill_in_any_part_of_any_stage_is_as_if_it_had_not_been(
    masked, tmp_path, uninterrupted, killed
):
    config, cut = masked(stages=STAGES), tmp_path / "cut"
    with pytest.raises(KilledError):
        distill(config, cut, observer=Watcher(killed, kill))
    about = sorted((cut / "checkpoints").glob("*/checkpoint.json"))[-1]
    assert json.loads(about.read_text())["stage"] == (1 if killed <= 26 else 2)
    watcher = Watcher()
    result = distill(config, cut, resume=True, observer=watcher)
    assert 0 < killed - watcher.reports[0].step + 1 <= 5
    assert result.steps == 50
    expected, resumed = losses(uninterrupted), losses(cut)
    assert list(resumed) == list(expected) == list(range(1, 51))
    assert all(resumed[step] == pytest.approx(expected[step], abs=1e-6) for step in expected)
    assert weights_hash(load_clip(str(cut)).model) == weights_hash(
        load_clip(str(uninterrupted)).model
    )
    for kind in ("stage", "prune", "gates"):
        steps = [[e["step"] for e in events_of(folder, kind)] for folder in (uninterrupted, cut)]
        assert steps[0] == steps[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder that the uninterrupted run of two stages is put into once."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture(autouse=True)
def _uninterrupted(request):
    if "uninterrupted" not in request.fixturenames:
        return
    out = request.getfixturevalue("uninterrupted")
    if not out.exists():
        distill(request.getfixturevalue("masked")(stages=STAGES), out)


@pytest.mark.usefixtures("no_report")
def test_each_stage_starts_from_the_last_ones_student(uninterrupted):
    assert [(e["stage"], e["step"]) for e in events_of(uninterrupted, "stage")] == [(1, 0), (2, 26)]
    assert [(e["stage"], e["step"]) for e in events_of(uninterrupted, "prune")] == [
        (1, 18),
        (2, 44),
    ]
    middle = load_clip(str(uninterrupted / "stages" / "1" / "student"))
    assert prunable(middle) / PRUNABLE == pytest.approx(0.75, abs=0.01)
    units = clip_units(middle)
    first = next(e for e in events_of(uninterrupted, "gates") if e["stage"] == 2)
    assert first["image"]["heads"] == list(units.image.heads)
    assert first["kept"] == pytest.approx(units.prunable / PRUNABLE)
    assert {e["stage"] for e in events_of(uninterrupted, "step")} == {1, 2}
    assert prunable(load_clip(str(uninterrupted))) / PRUNABLE == pytest.approx(0.5, abs=0.01)
    assert not (uninterrupted / "stages" / "2" / "student").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_missed_target_is_waited_for_and_reported(masked, tmp_path, monkeypatch):
    monkeypatch.setattr(MaskedTask, "settle", lambda *_: False)
    watcher, out = Watcher(), tmp_path / "run"
    # At the earliest prune that is allowed the target is in force, but not reached.
    masks = {"lr": 0.31, "prune": 14, "extra": 4, "warmup": 14.0}
    distill(masked(masks=masks), out, observer=watcher)
    (wait,), (prune,) = events_of(out, "wait"), events_of(out, "prune")
    assert (wait["step"], wait["until"], prune["step"]) == (14, 18, 18)
    assert any("pruning is postponed by up to 4 steps" in message for message in watcher.messages)
    assert prune["met"] is (abs(prune["kept"] - 0.5) <= 0.01)
    cure = "prune later" if prune["kept"] > 0.5 else "lower masks.lr"
    missed = [m for m in watcher.messages if f"50.0% was missed: {cure}" in m]
    assert bool(missed) is not prune["met"]
    assert prunable(load_clip(str(out))) / PRUNABLE == pytest.approx(prune["kept"], abs=1e-9)


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"student": {"keep": 0.02}}, InheritanceError, "keep 0.02 is out of reach: embeddings"),
        (
            {"stages": [{"student": {"vision_cfg": {"layers": 2}}}, {"keep": 0.75}]},
            InheritanceError,
            "stage 2: keep 0.75 is not below the 0.7",
        ),
        (
            {
                "inherit": {"method": "uniform"},
                "stages": [
                    {"student": {"vision_cfg": {"layers": 2}}},
                    {"student": {"vision_cfg": {"layers": 3}}},
                ],
            },
            InheritanceError,
            "stage 2: image tower: layers 3 is more than the teacher's 2",
        ),
        (
            {"masks": {"lr": 0.02}},
            ConfigError,
            "keep 0.5 cannot be reached: gates have 5.3 to move",
        ),
    ],
)
def test_what_cannot_end_well_is_refused_before_it_starts(
    masked, tmp_path, sections, error, message
):
    with pytest.raises(error) as caught:
        distill(masked(**sections), tmp_path / "run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
