"""The package of docs/examples, installed: YAML names its loss, source, teacher and target."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinyclip_edge.train import read_events

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "margin-loss"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process in which the example is installed."""
    folder = tmp_path_factory.mktemp("extension")
    source = shutil.copytree(EXAMPLE, folder / "source")
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *offline, str(source)], check=True, capture_output=True)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}, site


def run(installed, *words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "tinyclip_edge", *map(str, words)],
        env=installed[0], cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_names_loss_source_and_teacher(installed, toy_teacher_folder, tmp_path):
    config = {
        "name": "toy",
        "teacher": {"model": str(toy_teacher_folder)},
        "student": {"model": {"vision_cfg": {"width": 64, "layers": 1},
                              "text_cfg": {"width": 64, "heads": 1, "layers": 1}}},
        "loss": {"teacher_logit_scale": 100.0, "margin": 1, "margin_width": 0.3},
        "data": {"train": "squares:40", "val": "squares:20"},
        "optim": {"lr": 1e-3, "batch_size": 8, "steps": 2},
        "run": {"device": "cpu", "log_every": 1},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    done = run(installed, "distill", "run.yaml", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [e for e in read_events(tmp_path / "out" / "events.jsonl") if e["kind"] == "step"]
    assert [event["step"] for event in steps] == [1, 2]
    for event in steps:
        assert 0 < event["margin"] < 1.3
        assert event["loss"] == pytest.approx(event["affinity"] + event["margin"], rel=1e-5)


@pytest.mark.slow
def test_its_keys_are_explained_and_checked(installed, tmp_path):
    done = run(installed, "config", "loss.margin_width", cwd=tmp_path)
    assert done.stdout.startswith("loss.margin_width: float, ")
    assert "Cosine by which a pair must lead." in done.stdout
    mistakes = (
        ("loss.margin_width=-1", "loss.margin_width"),
        ("loss.margin_widht=1", "did you mean 'loss.margin_width'"),
        ("data.train=squares:many", "data 'squares' of the package margin-loss fails on 'many'"),
        ("teacher.model=frozen-start:nothing", "nothing"),
    )
    code = (  # one process for all, as torch takes seconds to import
        "import sys\n"
        "from tinyclip_edge.cli import app\n"
        "for change in sys.argv[1:]:\n"
        "    sys.argv = ['tinyclip-edge', 'doctor', 'starter', change]\n"
        "    try:\n"
        "        app.main()\n"
        "    except SystemExit as end:\n"
        "        print('code', end.code, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(change for change, _ in mistakes)],
        env=installed[0], cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = done.stderr.split("code 2\n")
    assert answers.pop() == "" and len(answers) == len(mistakes), done.stderr
    for (change, words), answer in zip(mistakes, answers, strict=True):
        assert words in answer, (change, answer)
        assert answer.splitlines()[-1].startswith("error: ")


@pytest.mark.slow
def test_a_target_is_named_like_a_shipped_one(installed, tmp_path):
    code = (
        "from tinyclip_edge.config.preset import load_preset, preset_names\n"
        "print(load_preset('tiny-board').precisions, 'tiny-board' in preset_names())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=installed[0], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['fp32', 'int8'] True\n"


@pytest.mark.slow
def test_a_broken_package_costs_a_warning(installed, tmp_path):
    broken = shutil.copytree(installed[1], tmp_path / "site")
    (broken / "margin_loss.py").write_text("raise RuntimeError('broken')\n")
    environment = {**installed[0]}
    environment["PYTHONPATH"] = environment["PYTHONPATH"].replace(str(installed[1]), str(broken))
    done = run((environment, broken), "config", "loss.affinity", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("loss.affinity: ")
    assert done.stderr.count("\n") == 1
    assert "losses 'margin' of the package margin-loss cannot be loaded" in done.stderr
