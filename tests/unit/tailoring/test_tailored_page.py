"""The table, the page and the picture of a finished tailoring."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from rich.console import Console

from tinyclip_edge.report.scatter import pareto_front
from tinyclip_edge.tailoring.agreement import Agreement
from tinyclip_edge.tailoring.page import spots, write_page, write_plot
from tinyclip_edge.tailoring.report import Entry, TailorReport


@pytest.fixture
def report(tmp_path):
    entries = (
        Entry("teacher", "teacher", "<b>big</b>", 20.0, 10.0, None, Agreement(50, 1, 1, 0, 0.9)),
        Entry("L3", "candidate", "3 layers", 2.0, 1.0, 700, Agreement(50, 0.92, 1, 0.1, 0.88)),
        Entry("L2", "candidate", "2 layers", 1.0, 1.5, 100, Agreement(50, 0.8, 0.96, 0.2, 0.7)),
        Entry("L1", "candidate", "1 layer", 0.5, 0.2, 4, None),
        Entry("bundle", "bundle", "L3", 2.1, 1.0, None, Agreement(50, 0.91, 1, 0.1, 0.87)),
    )
    return TailorReport(
        bundle=tmp_path / "mine",
        ship=("onnx/classifier_quantized.onnx",),
        work=tmp_path,
        page=tmp_path / "report.html",
        winner="L3",
        run=tmp_path / "runs" / "L3",
        max_mb=8.0,
        max_ms=5.0,
        train_pictures=200,
        held_out=50,
        entries=entries,
        notes=("2 pictures cannot be read: <a>.png",),
        commands=("tinyclip-edge distill L3.yaml --out runs/L3",),
    )


def test_the_table_goes_from_small_to_large(report):
    text = io.StringIO()
    Console(file=text, width=80).print(report.table())
    rows = [line.split() for line in text.getvalue().splitlines() if line[:2] in (" L", " b", " t")]
    assert [row[0] for row in rows] == ["L1", "L2", "L3", "bundle", "teacher"]
    assert rows[2] == ["L3", "*", "2.00", "1.00", "700", "92.0", "100.0", "88.0"]


def test_spots_are_the_evaluated_models(report):
    sizes = spots(report, "mb")
    assert [(s.label, s.x, s.y, s.highlighted) for s in sizes] == [
        ("2", 1.0, 80.0, False), ("3", 2.0, 92.0, True), ("B", 2.1, 91.0, False),
        ("T", 20.0, 100.0, False),
    ]  # fmt: skip
    # In milliseconds 2 is worse and slower than 3.
    assert [s.label for s in pareto_front(spots(report, "ms"))] == ["3", "T"]


def test_the_page_has_all_and_escapes_it(report):
    write_page(report, report.page)
    page = report.page.read_text()
    assert "&lt;b&gt;big&lt;/b&gt;" in page and "<b>big" not in page and "&lt;a&gt;.png" in page
    assert page.count("<svg") == 2 and report.commands[0] in page
    for cell in ("92.0", "88.0", "700", "0.50"):
        assert cell in page
    plot = report.page.with_suffix(".png")
    write_plot(report, plot)
    with Image.open(plot) as picture:
        assert picture.size == (1128, 408)
