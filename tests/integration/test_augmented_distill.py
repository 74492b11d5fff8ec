"""A run that draws its crops anew, in memory and streamed: the same pictures after a kill."""

import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import Augment, Batch
from tinyclip_edge.data.augment import apply_draws
from tinyclip_edge.train import distill
from toy_runs import STUDENT, KilledError, Watcher, kill, losses

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def config(tmp_path, toy_teacher_folder):
    shard = write_shard(tmp_path / "train.tar", toy_samples((32, 40)))

    def make_config(**data):
        return RunConfig.model_validate(
            {
                "teacher": {"model": str(toy_teacher_folder)},
                "student": {"model": STUDENT},
                "loss": {"affinity": 1.0, "feature": 10.0},
                "data": {"train": str(shard), **data},
                "optim": {"steps": 10, "batch_size": 16, "lr": 1e-3},
                "run": {"device": "cpu", "save_every": 4, "log_every": 1},
            }
        )

    return make_config


CROPS = {"augment_crop": [0.4, 0.9], "augment_flip": 0.5, "augment_colour": 0.3}


@pytest.mark.parametrize("memory", [pytest.param(4.0, marks=pytest.mark.slow), 0.0])
@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_pictures(config, tmp_path, memory):
    settings = config(**CROPS, memory_gb=memory)
    distill(settings, tmp_path / "whole")
    with pytest.raises(KilledError):
        distill(settings, tmp_path / "killed", observer=Watcher(7, kill))
    distill(settings, tmp_path / "killed", resume=True)
    uninterrupted, killed = losses(tmp_path / "whole"), losses(tmp_path / "killed")
    assert killed == pytest.approx(uninterrupted, abs=1e-6)


@pytest.mark.slow
def test_the_draws_change_what_is_learnt(config, tmp_path):
    distill(config(), tmp_path / "centre")
    distill(config(**CROPS), tmp_path / "drawn")
    distill(config(augment_crop=[1.0, 1.0]), tmp_path / "same")
    centre, cropped = losses(tmp_path / "centre"), losses(tmp_path / "drawn")
    assert abs(centre[1] - cropped[1]) > 1e-4
    # A crop of the whole picture may still be cut to another ratio of its sides.
    assert losses(tmp_path / "same")[1] != cropped[1]


def test_student_and_teacher_see_the_same_pictures(config, monkeypatch):
    from tinyclip_edge.train.builder import prepare
    from tinyclip_edge.train.monitoring.events import Silent

    _, work = prepare(config(**CROPS), Silent())
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), generator=random, dtype=torch.uint8)
    draws = Augment((0.4, 0.9), 0.5, 0.3).draw(0, 0, 4)
    pictures = {}
    features_of = work.task.teacher.features_of

    def remembered(batch, counts=None):
        pictures["teacher"] = batch.pixels
        return features_of(batch, counts)

    monkeypatch.setattr(work.task.teacher, "features_of", remembered)
    restore = work.task._codec.restore
    monkeypatch.setattr(
        work.task._codec,
        "restore",
        lambda values, size=None: (pictures.setdefault("student", values), restore(values, size))[
            1
        ],
    )
    work.task.terms(Batch(tuple("abcd"), pixels, ("a cat", "a dog", "red", "blue"), draws=draws))
    assert torch.equal(pictures["teacher"], apply_draws(pixels, draws))
    assert torch.equal(pictures["student"], pictures["teacher"])
