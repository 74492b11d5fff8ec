"""Shards and configurations of toy runs."""

from __future__ import annotations

import pytest

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig
from tinyclip_edge.models import save_local_dir
from tinyclip_edge.train.tasks.teacher import Teacher
from toy_runs import STUDENT


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    samples = toy_samples((32, 40))
    write_shard(folder / "train-0.tar.gz", samples[:50])
    write_shard(folder / "train-1.tar", samples[50:])
    write_shard(folder / "val.tar", toy_samples((48,)))
    return folder


@pytest.fixture
def make(shards, toy_teacher_folder):
    def config(**sections):
        base = {
            "name": "toy",
            "teacher": {"model": str(toy_teacher_folder)},
            "student": {"model": STUDENT} if "stages" not in sections else {},
            "loss": {"teacher_logit_scale": 100.0},
            "data": {"train": str(shards / "train-*.tar*"), "val": str(shards / "val.tar")},
            "optim": {"lr": 1e-3, "batch_size": 16, "steps": 12},
            "run": {"device": "cpu", "log_every": 1, "save_every": 4},
        }
        for name, values in sections.items():
            merged = name in base and name != "student"
            base[name] = {**base[name], **values} if merged else values
        return RunConfig.model_validate(base)

    return config


@pytest.fixture
def learnt_otherwise(tmp_path, toy_teacher_of):
    """A second teacher, as a configuration names it."""
    save_local_dir(tmp_path / "other-teacher", toy_teacher_of(7))
    return {"model": str(tmp_path / "other-teacher")}


@pytest.fixture
def silent(monkeypatch):
    """From now on the teacher may not be asked."""

    def ask(*_):
        raise AssertionError("the teacher was asked again")

    def forbid():
        for method in ("encode_images", "encode_texts", "_texts"):
            monkeypatch.setattr(Teacher, method, ask)

    return forbid
