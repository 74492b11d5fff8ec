"""The commands that make a winner by hand."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinyclip_edge.api.tailored_bundle import commands
from tinyclip_edge.tailoring.work import WorkFolder


@pytest.mark.parametrize("trims", [False, True])
def test_what_is_trained_by_hand_is_exported(trims):
    work = WorkFolder(Path("runs/tailor mine"))
    tailoring = SimpleNamespace(
        work=work,
        request=SimpleNamespace(out=Path("bundles/mine")),
        candidates=SimpleNamespace(trims=trims),
    )
    distil, export = map(shlex.split, commands(tailoring, "L2-W64-N128-S32"))
    trained = distil[distil.index("--out") + 1]
    assert distil[:2] == ["tinyclip-edge", "distill"]
    assert distil[2] == "runs/tailor mine/configurations/L2-W64-N128-S32.yaml"
    # Not the run of the tailoring, and not over its bundle.
    assert export[:3] == ["tinyclip-edge", "export", trained]
    assert Path(trained) != work.runs / "L2-W64-N128-S32"
    assert export[export.index("--out") + 1] != "bundles/mine"
    assert ("--trim-vocab" in export) == trims
