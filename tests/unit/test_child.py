"""Child processes of this project import nothing from the folder that a command is run in."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tinyclip_edge.child import child_command, child_environment
from tinyclip_edge.evaluation import bench_models
from tinyclip_export.verification.reload import replay_in_child

NAMES = ("json", "numpy", "onnxruntime", "runpy", "tinyclip_edge", "sitecustomize")


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """Work in a stranger's folder of Python files named like libraries; the file that they make."""
    place, mark = tmp_path / "model", tmp_path / "it-ran"
    place.mkdir()
    for name in NAMES:
        (place / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    return mark


def test_measuring_a_bundle_runs_nothing_of_the_working_directory(shared_tiny_bundle, mark):
    bench_models([str(shared_tiny_bundle.folder)], batch=1, rounds=1)
    assert not mark.exists()


def test_the_reload_of_an_export_runs_nothing_of_the_working_directory(shared_tiny_bundle, mark):
    answer = replay_in_child(shared_tiny_bundle.folder, "fp32")
    assert answer.get("cosine", 1) > 0.999, answer
    assert "Traceback" not in answer.get("error", "")
    assert not mark.exists()


def test_the_reload_of_an_engine_reads_the_engines_files(shared_tiny_bundle):
    program = "tinyclip_export.engines.replay"
    answer = replay_in_child(shared_tiny_bundle.folder, "int8", program=program)
    assert "extras.engine does not describe its int8 files" in answer["error"]


def test_a_child_gets_its_arguments_and_this_import_path(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("import sys; print(__name__, sys.argv[1:])")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    command = child_command("own", "a b", "{'c'}")
    done = subprocess.run(
        command, env=child_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == """__main__ ['a b', "{'c'}"]"""


def test_an_interpreter_that_trusts_its_working_directory_hands_that_on(tmp_path, monkeypatch):
    """As a notebook does, whose path has an empty entry."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("print('here')")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    done = subprocess.run(
        child_command("own"), env=child_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "here\n"
