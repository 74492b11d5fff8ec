"""What workflows, the Dockerfile and the pages tell people to run exists."""

import importlib.util
import itertools
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
IN_CODE = re.compile(r"`make ([a-z]+)|^(?:exec )?make ([a-z]+)(?= *(?:#|$))", re.MULTILINE)


def make_targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(workflow):
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / ".ci/run"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_make_targets_of_pages_exist(path):
    named = {name for pair in IN_CODE.findall(path.read_text()) for name in pair if name}
    assert named <= make_targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_make_targets_of_workflows_exist(path):
    commands = [step["run"] for step in steps(path) if "run" in step]
    named = {name for line in commands for name in re.findall(r"\bmake ([a-z]+)", line)}
    assert commands and named <= make_targets()


def test_each_leg_of_the_matrix_workflow_is_one_of_the_script():
    spec = importlib.util.spec_from_file_location("matrix", ROOT / ".ci/matrix.py")
    sys.modules["matrix"] = script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    jobs = yaml.safe_load((ROOT / ".github/workflows/matrix.yml").read_text())["jobs"]
    axes = jobs["leg"]["strategy"]["matrix"]
    legs = itertools.product(axes["versions"], axes["python"], axes["extras"])
    assert {"-".join(leg) for leg in legs} == {leg.name for leg in script.LEGS}


def test_commands_of_the_dockerfile_exist():
    from tinyclip_edge.cli.app import app

    text = (ROOT / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\w+)", text, re.MULTILINE))
    assert set(re.findall(r"--target (\w+)", text)) <= stages
    commands = {command.name for command in app.registered_commands}
    started = re.findall(r'^CMD \["(\w+)"', text, re.MULTILINE)
    started += re.findall(r"^# .*docker run .* tinyclip-edge (\w+)", text, re.MULTILINE)
    assert len(started) == 2 and set(started) <= commands
