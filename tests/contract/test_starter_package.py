"""The starter kit is a package of its own: whoever lacks it is told how to get it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinyclip_starter
from tinyclip_edge import starter
from tinyclip_edge.data import open_source
from tinyclip_edge.errors import MissingExtraError
from tinyclip_edge.evaluation.sets import check_set
from tinyclip_edge.models import load_clip
from tinyclip_edge.models.student import zoo_config

ROOT = Path(__file__).resolve().parents[2]
CURE = re.escape("pip install 'tinyclip-edge[starter]'")
DOORS = {
    "shards": starter.kit_path,
    "teacher": starter.teacher_path,
    "figure of training from scratch": starter.from_scratch_path,
    "training data": lambda: open_source("starter:train"),
    "evaluation set": lambda: check_set("starter:test_style"),
    "teacher's weights": lambda: load_clip("starter-teacher"),
    "a student's shape": lambda: zoo_config("starter-50"),
}
COMMANDS = (
    "quickstart",
    "distill starter --out new",
    "distill starter --dry-run",
    "inherit starter --out new",
    "doctor starter",
    "export starter-teacher --out new",
    "eval starter-teacher",
    "bench starter-teacher",
    "demo",
)
DRIVER = """
import contextlib, io, json, sys
sys.modules["tinyclip_starter"] = None  # as if it were not installed
from tinyclip_edge.cli import app
answers = {}
for line in json.loads(sys.argv[1]):
    sys.argv = ["tinyclip-edge", *line.split()]
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    answers[line] = (code, err.getvalue())
print(json.dumps([answers, "torch" in sys.modules]))
"""


@pytest.mark.parametrize("door", DOORS)
def test_every_door_names_the_extra(door, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinyclip_starter", None)
    with pytest.raises(MissingExtraError, match=CURE):
        DOORS[door]()


def test_a_folder_of_that_name_is_not_the_kit(tmp_path, monkeypatch):
    (tmp_path / "tinyclip_starter" / "shards").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "tinyclip_starter")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "editable" not in repr(f)])
    with pytest.raises(MissingExtraError, match=CURE):
        starter.kit_path()


def test_commands_without_the_kit_end_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(COMMANDS)],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers, torch_loaded = json.loads(done.stdout.splitlines()[-1])
    for line, (code, err) in answers.items():
        assert code == 2, (line, err)
        assert re.search(CURE, err.splitlines()[-1]), (line, err)
    assert not torch_loaded
    assert list(tmp_path.iterdir()) == []


def test_the_extra_takes_the_version_that_is_here():
    text = (ROOT / "pyproject.toml").read_text()
    line = re.search(r'"tinyclip-starter==(\d+\.\d+)\.\*"', text)[1]
    kit = (ROOT / "tinyclip_starter" / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', kit, re.MULTILINE)[1]
    assert version == tinyclip_starter.__version__
    assert version.startswith(f"{line}.")


def test_the_base_package_carries_code_alone():
    files = [p for p in (ROOT / "tinyclip_edge" / "starter").rglob("*") if p.is_file()]
    assert {p.suffix for p in files if "__pycache__" not in p.parts} == {".py"}
