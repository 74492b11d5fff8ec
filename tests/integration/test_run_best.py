"""A run keeps the student that did best on the validation pairs, over kills too."""

import pytest

from tinyclip_edge.models import load_clip, weights_hash
from tinyclip_edge.train import distill
from toy_runs import KilledError, Watcher, events_of, kill

pytestmark = pytest.mark.usefixtures("no_report")

EVERY = {"eval_every": 3, "save_every": 4}


def scores(folder):
    """Mean recall@1 by step."""
    evals = [e for e in events_of(folder, "eval") if e["who"] == "student"]
    return {e["step"]: (e["t2i_r1"] + e["i2t_r1"]) / 2 for e in evals}


def test_the_best_student_is_the_one_measured_best(make, tmp_path):
    distill(make(run=EVERY, optim={"lr": 2e-2}), tmp_path / "run")
    measured = scores(tmp_path / "run")
    assert list(measured) == [0, 3, 6, 9, 12]
    last = events_of(tmp_path / "run", "best")[-1]
    assert last["score"] == pytest.approx(max(measured.values()))
    assert last["step"] == next(
        s for s, score in measured.items() if score == max(measured.values())
    )
    assert load_clip(str(tmp_path / "run" / "best")).embedding_dim == 64


@pytest.mark.slow
def test_a_kill_does_not_change_what_is_best(make, tmp_path):
    uninterrupted, cut = tmp_path / "whole", tmp_path / "cut"
    distill(make(run=EVERY), uninterrupted)
    with pytest.raises(KilledError):
        distill(make(run=EVERY), cut, observer=Watcher(7, kill))
    distill(make(run=EVERY), cut, resume=True)
    assert events_of(cut, "best") == events_of(uninterrupted, "best")
    one, other = (
        weights_hash(load_clip(str(folder / "best")).model) for folder in (uninterrupted, cut)
    )
    assert one == other


@pytest.mark.slow
def test_students_under_masks_do_not_compete(make, tmp_path):
    masks = {"lr": 0.9, "prune": 6, "extra": 2, "warmup": 0.4}
    config = make(
        student={"keep": 0.5}, inherit={"method": "masks"}, masks=masks, run={"eval_every": 2}
    )
    distill(config, tmp_path / "run")
    pruned = events_of(tmp_path / "run", "prune")[0]["step"]
    assert all(event["step"] >= pruned for event in events_of(tmp_path / "run", "best"))
    best = load_clip(str(tmp_path / "run" / "best"))
    student = load_clip(str(tmp_path / "run"))
    assert {k: v.shape for k, v in best.model.state_dict().items()} == {
        k: v.shape for k, v in student.model.state_dict().items()
    }


def test_without_validation_there_is_none(make, tmp_path):
    distill(make(data={"val": None}), tmp_path / "run")
    assert not (tmp_path / "run" / "best").exists()
