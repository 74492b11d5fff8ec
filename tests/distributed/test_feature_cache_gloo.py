"""A feature cache is the same whoever fills it, and several processes learn from it as one."""

from __future__ import annotations

import pytest

from distributed_runs import distil_all, fill_caches, together
from pair_shards import toy_samples, write_shard
from toy_runs import STUDENT, losses

pytestmark = pytest.mark.slow
SHARDS, STEPS = 5, 6


@pytest.fixture(scope="module")
def configs(tmp_path_factory, toy_teacher_folder):
    """A configuration by name, given the parent of its cache."""
    samples = toy_samples((40,))
    folder = tmp_path_factory.mktemp("shards")
    for number in range(SHARDS):
        write_shard(folder / f"a-{number}.tar", samples[number::SHARDS])

    def make(parent):
        return {
            name: {
                "teacher": {"model": str(toy_teacher_folder)},
                "student": {"model": STUDENT},
                "loss": {"teacher_logit_scale": 100.0},
                "data": {"train": str(folder / "a-*.tar"), "views": 2,
                         "feature_cache": str(parent / "cache"), **data},
                "optim": {"lr": 1e-3, "batch_size": 16, "steps": STEPS},
                "run": {"device": "cpu", "log_every": 1},
            }
            for name, data in {"memory": {}, "stream": {"memory_gb": 0.0}}.items()
        }  # fmt: skip

    return make


@pytest.fixture(scope="module")
def folders(configs, tmp_path_factory):
    """What one process and what two left, each in its folder."""
    alone, two = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("two")
    fill_caches(0, configs(alone), alone)
    together(2, fill_caches, configs(two), two)
    return alone, two


def test_one_process_and_two_leave_the_same_bytes(folders):
    parts = [
        {path.name: path.read_bytes() for path in (folder / "cache" / "parts").iterdir()}
        for folder in folders
    ]
    assert len(parts[0]) == SHARDS
    assert parts[0] == parts[1]
    outputs = [(folders[1] / f"memory-{rank}.txt").read_text().splitlines() for rank in range(2)]
    assert outputs[0][:2] == outputs[1][:2] == ["5", "48"]
    assert "5 of 5 parts are missing" in outputs[0][2]
    assert outputs[1][2:] == []
    assert (folders[1] / "stream-0.txt").read_text().startswith("0\n0")


def test_two_processes_learn_from_it_as_one(folders, configs):
    alone, two = folders
    runs = configs(alone)  # the cache of one process for all
    distil_all(0, runs, alone)
    together(2, distil_all, runs, two)
    for name in runs:
        one, other = losses(alone / name), losses(two / name)
        assert list(one) == list(range(1, STEPS + 1))
        assert other == pytest.approx(one, rel=1e-5)
