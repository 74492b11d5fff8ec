"""Options of ``distill`` that contradict each other."""

import pytest

from tinyclip_edge.cli.distill import distill
from tinyclip_edge.errors import ConfigError


def test_a_resumed_run_takes_no_other_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"--out .*new with --resume .*old: .*; drop --out"):
        distill(None, out=tmp_path / "new", resume=tmp_path / "old")
    assert not list(tmp_path.iterdir())
