"""The command line under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tinyclip_edge
from distributed_runs import free_port
from tinyclip_edge.models import load_clip
from toy_runs import events_of

pytestmark = pytest.mark.slow


LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"],
    "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
                   "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                   "--main_process_port"],
}  # fmt: skip


@pytest.fixture
def launched(tmp_path, runs):
    """Distil under two processes: (what was printed, exit code, run folder)."""

    def run(launcher, *overrides):
        config, out = tmp_path / "run.yaml", tmp_path / "run"
        config.write_text(json.dumps(runs["learnt scale"]))
        roots = [str(Path(tinyclip_edge.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        words = ["-m", "tinyclip_edge", "distill", str(config), *overrides, "--out", str(out)]
        done = subprocess.run(
            [sys.executable, *LAUNCHERS[launcher], str(free_port()), *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        return done.stdout + done.stderr, done.returncode, out

    return run


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_leaves_one_run(launched, launcher):
    log, code, out = launched(launcher, "optim.steps=4", "optim.warmup=1")
    assert code == 0, log
    assert log.count("student: ") == 1
    assert log.count("step 4/4") == 1
    assert len(events_of(out, "run_start")) == 1
    assert [e["step"] for e in events_of(out, "step")] == [1, 2, 3, 4]
    assert load_clip(str(out)).embedding_dim == 64
    assert (out / "report" / "report.html").is_file()


def test_a_batch_that_cannot_be_shared_is_one_line_under_torchrun(launched):
    log, code, out = launched("torchrun", "optim.batch_size=15")
    assert code != 0
    lines = [line for line in log.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: optim.batch_size 15 cannot be divided evenly among 2 processes; set it to 14 or "
        "16, or start a different number of processes"
    ]
    assert "exitcode  : 2" in log  # of our process; the launcher's own is 1
    assert not out.exists()
