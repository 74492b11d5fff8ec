"""Toy runs that are reported, made once."""

from __future__ import annotations

from functools import partial

import pytest

from pair_shards import toy_samples, write_shard
from report_page import EVIL, NAME
from tinyclip_edge.train import distill


@pytest.fixture
def report(command_line):
    """Run the command: (exit code, stdout, stderr)."""
    return partial(command_line, "report")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where the runs lie that are made once."""
    return tmp_path_factory.mktemp("reported") / "runs"


@pytest.fixture
def plain(make, folders):
    """A run without masks, with an evil caption and an evil name."""
    out = folders / NAME
    if not out.exists():
        samples = toy_samples((48,))
        samples[0][1]["txt"] = EVIL.encode()
        val = write_shard(folders.parent / "evil.tar", samples)
        distill(make(data={"val": str(val)}, run={"eval_every": 6}), out)
    return out


@pytest.fixture
def short(make, folders, no_report):
    """A run of three steps without pairs to validate on."""
    out = folders / "short"
    if not out.exists():
        distill(make(data={"val": None}, optim={"steps": 3}), out)
    return out


@pytest.fixture
def masked(make, folders):
    """Two stages: a given shape, then masks."""
    out = folders / "masked"
    if not out.exists():
        quick = {"lr": 0.4, "lambda_lr": 1.0, "log_every": 4, "warmup": 0.4, "prune": 18}
        shape = {"vision_cfg": {"layers": 3}}
        stages = [{"student": shape, "steps": 6}, {"keep": 0.4}]
        distill(
            make(
                inherit={"method": "masks"},
                optim={"steps": 26, "lr": 5e-4, "warmup": 3},
                masks={**quick, "extra": 4},
                stages=stages,
            ),
            out,
        )
    return out
