"""The notebooks of the documentation run from an empty folder, and are stored without outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from kit_part import write_kit_part

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NAMES = ("add-a-loss", "first-student", "own-pictures")


def cells(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell):
    """What a run cell printed and returned."""
    shown = [output for output in cell.outputs if output.output_type != "error"]
    tables = [output for output in shown if "<pre" in output.get("data", {}).get("text/html", "")
              and "─" in output.data["text/html"]]  # fmt: skip
    assert len(tables) <= 1  # not once by rich and once by the notebook
    return "\n".join(o.get("text", "") or o.data.get("text/html", o.data["text/plain"])
                     for o in shown if "text" in o or "data" in o)  # fmt: skip


def test_there_is_a_test_for_each():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_has_no_outputs(name):
    _, code = cells(name)
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 12_000


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Run a notebook in an empty folder, on a part of the kit; return what its cells showed."""
    kit = write_kit_part(tmp_path / "site").parent
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(kit), *sys.path])))

    def run(name):
        notebook, code = cells(name)
        (tmp_path / "work").mkdir()
        resources = {"metadata": {"path": str(tmp_path / "work")}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
        return [text_of(cell) for cell in code], tmp_path / "work"

    return run


@pytest.mark.slow
def test_first_student(executed):
    shown, folder = executed("first-student")
    assert "loss: " in shown[2] and "recall@1" in shown[3]
    assert shown[4] == "(2, 256)"
    assert (folder / "bundles/notebook/manifest.json").is_file()


@pytest.mark.slow
def test_own_pictures(executed):
    shown, folder = executed("own-pictures")
    assert shown[1] == "(240, 24)" and (folder / "val.csv").is_file()
    assert "Hit(key=" in shown[-2] and "square" in shown[-1]


@pytest.mark.slow
def test_add_a_loss(executed):
    shown, folder = executed("add-a-loss")
    lines = [line for line in shown[-2].splitlines() if line.startswith("loss.margin=")]
    assert len(lines) == 3
    page = (folder / "compared.html").read_text()
    assert all(f"margin-{weight}" in page for weight in (0, 1, 10))
