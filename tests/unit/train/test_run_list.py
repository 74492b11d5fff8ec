"""Runs of a folder: what is known of them, and what may go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tinyclip_edge.errors import DataError
from tinyclip_edge.train.run_list import list_runs

METRICS = {"t2i_r1": 0.25, "i2t_r1": 0.5, "zero_shot_100": 0.6}


def write_run(path, *events, student=False, checkpoints=(), steps=100):
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text("name: x\n")
    lines = [{"kind": "run_start", "step": 0, "steps": steps}, *events]
    (path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in checkpoints:
        (path / "checkpoints" / str(step)).mkdir()
        (path / "checkpoints" / str(step) / "state").write_bytes(b"x" * 1000)
    if student:
        (path / "student").mkdir()
        (path / "student" / "open_clip_config.json").write_text("{}")
    return path


def evaluation(step, who="student", **changes):
    return {"kind": "eval", "step": step, "who": who, **METRICS, **changes}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "runs"
    better = evaluation(80, t2i_r1=0.4)
    write_run(root / "done", evaluation(50), better, evaluation(100), student=True,
              checkpoints=(50, 100))  # fmt: skip
    write_run(root / "cut", evaluation(10, who="teacher"), checkpoints=(20, 40))
    write_run(root / "new")
    (root / "other").mkdir()
    (root / ".teacher-features").mkdir()
    (root / ".teacher-features" / "part").write_bytes(b"x" * 500)
    return root


def test_states_and_best_figures(folder):
    with FileLock(write_run(folder / "busy", {"kind": "step", "step": 7}) / ".lock"):
        runs = {run.path.name: run for run in list_runs(folder).runs}
    assert {name: run.progress for name, run in runs.items()} == {
        "done": "finished, 100 of 100",
        "cut": "stopped, 40 of 100",
        "new": "not started",
        "busy": "running, 7 of 100",
    }
    assert runs["done"].best == {**METRICS, "t2i_r1": 0.4}
    assert runs["cut"].best == {}  # the teacher's do not count
    assert runs["cut"].bytes == sum(
        f.stat().st_size for f in (folder / "cut").rglob("*") if f.is_file()
    )


def test_damaged_events_do_not_hide_a_run(folder):
    (folder / "done" / "events.jsonl").write_bytes(b'\xff\n5\n{"kind": "eval", "step": 3}\n')
    run = next(run for run in list_runs(folder).runs if run.path.name == "done")
    assert (run.state, run.steps, run.best) == ("finished", None, {})


def test_a_run_may_be_named_itself(folder):
    assert [run.path.name for run in list_runs(folder / "cut").runs] == ["cut"]
    with pytest.raises(DataError, match="no folder"):
        list_runs(folder / "missing")


def test_the_command_prints_a_line_a_run(command_line, folder):
    code, out, err = command_line("runs", folder)
    assert code == 0 and err == ""
    line = next(line for line in out.splitlines() if "done" in line)
    assert "finished, 100 of 100" in line and "40.0" in line
    answer = json.loads(command_line("runs", folder, "--json")[1])
    assert {run["state"] for run in answer["runs"]} == {"finished", "stopped", "not started"}
    (folder / "empty").mkdir()
    assert command_line("runs", folder / "empty") == (0, "", f"no runs in {folder / 'empty'}\n")


def killed_work(root):
    """A work folder whose process has ended while it held the lock."""
    code = (
        "import os, sys; from pathlib import Path; from tinyclip_edge.aside import work_folder\n"
        "with work_folder(Path(sys.argv[1])) as work:\n"
        "    (work / 'big').write_bytes(b'x' * 3000)\n"
        "    os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(root / "target")], check=False)
    works = list(root.glob(".target.*.partial"))
    assert len(works) == 1
    return works[0]


def test_clean_shows_and_deletes_only_what_was_named(command_line, folder):
    work = killed_work(folder)
    code, out, err = command_line("clean", folder)
    assert code == 0 and str(work) in out and "left by a killed process" in out
    assert "add --yes" in err and work.is_dir()
    words = ("clean", folder, "--checkpoints", "--features", "--yes", "--json")
    answer = json.loads(command_line(*words)[1])
    assert answer["deleted"] and {Path(row["path"]).name for row in answer["items"]} == {
        work.name, ".teacher-features", "checkpoints",
    }  # fmt: skip
    assert not work.exists() and not (folder / ".teacher-features").exists()
    assert not (folder / "done" / "checkpoints").exists()
    assert (folder / "done" / "student").is_dir() and (
        folder / "cut" / "checkpoints" / "40"
    ).is_dir()
    assert command_line("clean", folder)[2] == "nothing to delete\n"


def test_clean_leaves_a_working_process_alone(command_line, folder):
    work = killed_work(folder)
    with FileLock(work / ".lock"):
        assert command_line("clean", folder, "--yes")[2] == "nothing to delete\n"
    assert (work / "big").is_file()


def test_clean_follows_no_link(command_line, folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "photo").write_bytes(b"x")
    checkpoints = folder / "done" / "checkpoints"
    for path in sorted(checkpoints.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    checkpoints.rmdir()
    checkpoints.symlink_to(outside)
    assert command_line("clean", folder, "--checkpoints", "--yes")[2] == "nothing to delete\n"
    assert (outside / "photo").is_file()


def test_files_that_a_run_deletes_meanwhile_are_left_out(folder, monkeypatch):
    """As when a checkpoint is written while the runs are listed."""
    real, size = Path.is_file, next(r.bytes for r in list_runs(folder).runs if r.path.name == "cut")

    def deleting(path):
        known = real(path)
        if path.name == "state":
            path.unlink(missing_ok=True)
        return known

    def walk(top):
        for place, folders, names in os_walk(top):
            yield place, folders, [*names, "gone"]

    os_walk = os.walk
    monkeypatch.setattr(os, "walk", walk)
    monkeypatch.setattr(Path, "is_file", deleting)
    assert next(r.bytes for r in list_runs(folder).runs if r.path.name == "cut") == size
