"""What a launcher's environment says before any of its processes imports torch."""

from __future__ import annotations

import pytest

from tinyclip_edge import api
from tinyclip_edge.errors import ConfigError

UNEVEN = "optim.batch_size 15 cannot be divided evenly among 2 processes; set it to 14 or 16"


@pytest.fixture
def two_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)

    def trained(*_, **__):
        raise AssertionError("a run was begun")

    monkeypatch.setattr("tinyclip_edge.train.distill", trained)


def test_a_batch_that_cannot_be_shared_is_refused(two_processes, command_line):
    code, _, err = command_line("distill", "starter", "optim.batch_size=15")
    assert code == 2
    assert err.startswith(f"error: {UNEVEN}")
    with pytest.raises(ConfigError, match=UNEVEN):
        api.distill("starter", overrides=["optim.batch_size=15"])


def test_a_batch_that_can_be_shared_is_begun(two_processes):
    with pytest.raises(AssertionError, match="a run was begun"):
        api.distill("starter", overrides=["optim.batch_size=16"])
