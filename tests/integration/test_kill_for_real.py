"""SIGKILL at any moment, then ``--resume``: the losses are those of a run left alone."""

import random
import subprocess
import sys
import time

import pytest

from tinyclip_edge.config import dump_config
from tinyclip_edge.train import distill
from toy_runs import losses

STEPS, KILLS, PATIENCE = 40, 3, 600  # seconds


def command(*arguments):
    """A run by the command line, as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tinyclip_edge", "distill", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(run):
    _, stderr = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, stderr


def kill_within(run, folder, seconds):
    """Kill it so long after it has shown a new event; say whether it was still there."""
    log = folder / "events.jsonl"
    before = log.stat().st_size if log.exists() else 0
    end = time.monotonic() + PATIENCE
    while run.poll() is None and time.monotonic() < end:
        if log.exists() and log.stat().st_size > before:
            break
        time.sleep(0.005)
    time.sleep(seconds)
    alive = run.poll() is None
    run.kill()
    run.communicate()
    return alive


@pytest.mark.slow
def test_kills_at_any_moment_change_no_loss(make, tmp_path, no_report):
    config = make(
        data={"memory_gb": 0.0, "stream_groups": 2}, optim={"steps": STEPS}, run={"save_every": 3}
    )
    (tmp_path / "run.yaml").write_text(dump_config(config))
    uninterrupted, cut = tmp_path / "whole", tmp_path / "cut"
    distill(config, uninterrupted)
    draw = random.Random(0)
    run, killed = command(tmp_path / "run.yaml", "--out", cut), 0
    for _ in range(KILLS):
        killed += kill_within(run, cut, draw.uniform(0, 0.8))
        begun = (cut / "config.yaml").exists()
        run = command("--resume", cut) if begun else command(tmp_path / "run.yaml", "--out", cut)
    finish(run)
    assert killed >= KILLS - 1
    expected, resumed = losses(uninterrupted), losses(cut)
    assert list(resumed) == list(expected) == list(range(1, STEPS + 1))
    assert all(resumed[step] == pytest.approx(expected[step], abs=1e-6) for step in expected)
