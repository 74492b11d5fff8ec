"""A toy run, and the feature cache of the same settings."""

from __future__ import annotations

import pytest

from feature_cache_runs import STEPS
from tinyclip_edge.train import distill
from tinyclip_edge.train.caching import cache_features
from tinyclip_edge.train.feature_cache.progress import ProgressLines
from toy_runs import Watcher, losses


@pytest.fixture
def run(make, tmp_path):
    """Distil for some steps with data options; return the losses by step and what was told."""

    def distil(name, *, resume=False, watcher=None, teacher=None, **data):
        observed = watcher or Watcher()
        config = make(
            data={"val": None, **data},
            optim={"steps": STEPS},
            run={"save_every": 2},
            **({} if teacher is None else {"teacher": teacher}),
        )
        distill(config, tmp_path / name, resume=resume, observer=observed)
        return losses(tmp_path / name), observed.messages

    return distil


@pytest.fixture
def cache(make, tmp_path):
    def fill(**data):
        watcher = Watcher()
        config = make(data={"feature_cache": str(tmp_path / "cache"), **data})
        return cache_features(config, ProgressLines(watcher)), watcher.messages

    return fill
