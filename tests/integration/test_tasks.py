"""Each line of docs/tasks.md does what its heading says."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyclip_edge
from tiny_bundle import write_tiny_bundle
from toy_runs import STUDENT

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
TASK = re.compile(r"^## (?P<title>.+?)\n\n```(?P<language>\w+)\n(?P<code>.+?)```", re.M | re.S)
TASKS = {
    match["title"]: (match["language"], match["code"]) for match in TASK.finditer(PAGE.read_text())
}
SERVERS = ("Offer a bundle to other programs", "Compare models on a page")
TRAINING = ("Distil a teacher on pairs of your own", "Export a student as a verified bundle")
COLOURS = ("red", "lime", "blue", "white", "black", "orange", "navy", "olive", "teal", "pink")


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with a bundle, a photo, a folder of them, and pairs."""
    monkeypatch.chdir(tmp_path)
    write_tiny_bundle(tmp_path / "bundles" / "mine")
    Path("photos").mkdir()
    rows = []
    for name in COLOURS:
        Image.new("RGB", (40, 30), name).save(f"photos/{name}.png")
        rows.append(f"photos/{name}.png,a {name} square\n")
    Image.new("RGB", (40, 30), "red").save("photo.jpg")
    Path("pairs.csv").write_text("image,caption\n" + "".join(rows))
    return tmp_path


def run(line, command_line):
    words = shlex.split(line)
    assert words[0] == "tinyclip-edge"
    code, out, err = command_line(*words[1:])
    assert code == 0, err
    return out, err


def test_there_are_twelve_of_at_most_two_lines():
    assert len(TASKS) == 12
    assert all(len(code.splitlines()) <= 2 for _, code in TASKS.values())


@pytest.mark.parametrize("title", [t for t in TASKS if t not in (*SERVERS, *TRAINING)])
def test_the_lines_work(title, desk, command_line):
    language, code = TASKS[title]
    if language == "python":
        names = {"tinyclip_edge": tinyclip_edge, "Path": Path}
        if "EdgeCLIP.load" not in code:
            names["clip"] = tinyclip_edge.EdgeCLIP.load("bundles/mine")
        *first, last = code.splitlines()
        exec("\n".join(first), names)
        value = eval(last.partition(" = ")[2] if " = " in last else last, names)
        assert len(value) > 0
        return
    if "--image" in code or title == "Find duplicates":
        run("tinyclip-edge index photos", command_line)
    results = [run(line, command_line) for line in code.splitlines()]
    if title != "Find duplicates":
        assert results[-1][0].strip()


def test_the_served_bundle_answers(desk):
    line = TASKS[SERVERS[0]][1].split()
    command = [sys.executable, "-m", "tinyclip_edge", *line[1:], "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None and "http://127.0.0.1:" in server.stderr.readline()
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def test_the_demo_opens_what_is_there(desk, command_line, monkeypatch):
    launched = []
    monkeypatch.setattr("tinyclip_demo.launch", lambda names, *_, **__: launched.append(names))
    run(TASKS[SERVERS[1]][1].strip(), command_line)
    assert launched == [["starter-teacher", "bundles/mine"]]


@pytest.mark.slow
def test_from_pairs_to_a_bundle(desk, command_line, toy_teacher_folder, no_report):
    """The line of the page, with a toy teacher and steps of a toy run."""
    small = {
        "teacher.model": toy_teacher_folder, "student.model": json.dumps(STUDENT),
        "optim.steps": 2, "optim.batch_size": 8, "run.device": "cpu", "loss.feature": 0,
        "data.cache_teacher": "false", "data.feature_cache": "null",
        "loss.teacher_logit_scale": 100,
    }  # fmt: skip
    line = TASKS[TRAINING[0]][1].strip()
    changes = " ".join(shlex.quote(f"{key}={value}") for key, value in small.items())
    run(f"{line} {changes}", command_line)
    run(TASKS[TRAINING[1]][1].strip(), command_line)
    clip = tinyclip_edge.EdgeCLIP.load("bundles/starter", precision="int8")
    assert np.isclose(np.linalg.norm(clip.encode_text(["a red square"])), 1, atol=1e-3)
