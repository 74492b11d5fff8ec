"""The command that the page prints, and the plots of runs that have ended."""

import json
import os
import shlex
from types import SimpleNamespace

import pytest
import typer
from angle_model import RED, AngleModel, square

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService
from tinyclip_demo.tabs.tailoring import _shown
from tinyclip_demo.tailor_command import BUDGET, DEFAULTS, compared_models, tailor_command
from tinyclip_edge.cli.tailor import tailor
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.tailoring.agreement import Agreement
from tinyclip_edge.tailoring.report import Entry, TailorReport
from tinyclip_edge.tailoring.work import WorkFolder

BUDGETS = dict(zip(BUDGET, (2.5, 4, 30), strict=True))
LABELS = ("red", "green")


def test_the_command_is_one_that_tailor_understands(tmp_path):
    folder = tmp_path / "my photos; rm"
    line = tailor_command(
        folder, LABELS, ("a {}", "the {}"), BUDGETS, teacher="ViT-B-32/x", general="bundles/it's"
    )
    words = shlex.split(line)
    assert words[:2] == ["tinyclip-edge", "tailor"]
    app = typer.Typer()
    app.command()(tailor)
    parsed = typer.main.get_command(app).make_context("tailor", words[2:]).params
    assert (parsed["images"], str(parsed["labels"])) == (folder, "labels.txt")
    assert parsed["template"] == ["a {}", "the {}"]
    assert (parsed["teacher"], parsed["general"]) == ("ViT-B-32/x", "bundles/it's")
    assert (parsed["max_mb"], parsed["max_ms"], parsed["minutes"]) == (2.5, 4, 30)


def test_without_a_known_folder_or_models_the_rest_is_the_default():
    budget = {name: DEFAULTS[name] for name in BUDGET}
    assert tailor_command(None, LABELS, ("{}",), budget) == (
        "tinyclip-edge tailor --images photos --labels labels.txt --max-mb 8 --max-ms 5 "
        "--minutes 20 --out bundles/mine"
    )


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_budget_that_is_no_number_above_0(value):
    with pytest.raises(ConfigError, match=r"max_ms is .*; it must be above 0"):
        tailor_command(None, LABELS, ("{}",), BUDGETS | {"max_ms": value})


def test_models_of_this_machine_are_named_to_its_visitors_only(tmp_path):
    def slot(model, runtime="torch"):
        return SimpleNamespace(model=str(model), runtime=runtime)

    edge, run = slot(tmp_path, "onnxruntime"), slot(tmp_path)
    hub = slot("ViT-B-32/x")
    assert compared_models([edge, hub, run], paths=True) == ("ViT-B-32/x", str(tmp_path))
    assert compared_models([edge, hub, run], paths=False) == ("ViT-B-32/x", None)
    assert compared_models([run, edge], paths=False) == (None, None)
    assert compared_models([slot("")], paths=True) == (None, None)


@pytest.fixture
def runs(tmp_path):
    """Two finished tailorings, of which ``tailor-new`` is the later, and one that goes on."""
    entries = (
        Entry("teacher", "teacher", "<b>big</b>", 20.0, 10.0, None, Agreement(9, 1, 1, 0, 0.9)),
        Entry("L3", "candidate", "3 layers", 2.0, 1.0, 700, Agreement(9, 0.92, 1, 0.1)),
        Entry("L1", "candidate", "1 layer", 0.5, 0.2, 4, None),
        Entry("general", "general", "small", 3.0, 1.5, None, Agreement(9, 0.8, 1, 0.3)),
    )
    for time, name in enumerate(("tailor-old", "tailor-new")):
        work = WorkFolder(tmp_path / name)
        work.path.mkdir()
        report = TailorReport(
            bundle=tmp_path / "b", ship=("a.onnx",), work=work.path, page=work.path / "report.html",
            winner="L3", run=work.path / "runs" / "L3", max_mb=8, max_ms=5, train_pictures=40,
            held_out=9, entries=entries, notes=("n",), commands=("c",),
        )  # fmt: skip
        work.write("report", report.as_dict())
        os.utime(work.path / "report.json", (time, time))
        assert TailorReport.from_dict(work.read("report")) == report
    (tmp_path / "tailor-unfinished").mkdir()
    return tmp_path


@pytest.fixture
def service(runs):
    gallery = Gallery("one", (square(RED),), ("red",))
    return DemoService(ModelRegistry([AngleModel("m", {}, {})]), gallery, runs=runs)


def test_a_finished_tailoring_is_two_plots_and_a_row_for_each_model(runs, service):
    assert [each.path.name for each in WorkFolder.finished(runs)] == ["tailor-new", "tailor-old"]
    page = _shown(service, "tailor-new")
    assert page.count("<svg") == 2 and page.count("tbody") == 2
    for text in ("1 · L1", "2 · L3 ★", "G · general", "T · teacher", "92.0", "80.0", "90.0"):
        assert text in page
    assert "&lt;b&gt;big&lt;/b&gt;" in page and "<b>big" not in page
    assert "Budget: 8 MB and 5 ms" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_mb": "8"}, "is damaged"),
        ({"entries": [{"name": "x"}]}, "is damaged"),
        ({"entries": 7}, "is damaged"),
    ],
)
def test_a_report_that_was_not_written_here_is_one_line(runs, service, change, message):
    path = runs / "tailor-new" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    page = _shown(service, "tailor-new")
    assert message in page and 'role="alert"' in page


def test_names_are_looked_up_not_joined_to_paths(runs, service):
    assert "No finished tailor run" in _shown(service, "../tailor-new")
    assert "No finished tailor run" in _shown(service, "tailor-unfinished")
    assert "its plot will appear here" in _shown(service, None)
