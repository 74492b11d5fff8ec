"""The page and the plot of a tailoring: agreement against megabytes and milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.report.drawing import SERIES
from tinyclip_edge.report.figures import write_png
from tinyclip_edge.report.html import Safe, element, note, section, table
from tinyclip_edge.report.page import report_page
from tinyclip_edge.report.scatter import Spot, draw_spots, scatter
from tinyclip_edge.report.words import NONE
from tinyclip_edge.tailoring.report import BUNDLE, GENERAL, TEACHER, Entry, TailorReport
from tinyclip_edge.units import three_digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {TEACHER: SERIES[1], GENERAL: SERIES[3], BUNDLE: SERIES[2]}
SIZES, TIMES = ("MB", "teacher's labels, %"), ("ms of a picture", "teacher's labels, %")
HEAD = ("", "", "shape or model", "MB", "ms", "steps", "teacher's labels, %", "right, %")


def write_page(report: TailorReport, path: Path) -> None:
    """Write the HTML page. Raises DataError if it cannot be written."""
    body = [
        section(
            "compared",
            "All candidates",
            table(HEAD, rows(report), f"{report.held_out:,} held-out pictures"),
            element("div", *budget_figures(report), class_="figures"),
            note(budget_line(report)),
        ),
        section("notes", "Notes", *(note(line) for line in report.notes)),
        section(
            "again",
            "By hand",
            element("pre", "\n".join(report.commands)),
        ),
    ]
    title = f"{report.bundle.name}: {report.winner}"
    lead = (
        f"{report.train_pictures:,} pictures to learn from, {report.held_out:,} held out; bundle "
        f"{report.bundle}"
    )
    head = [element("h1", title), element("p", lead, class_="lead")]
    with file_written_aside(path) as file:
        file.write(report_page(title, head, body).encode())


def budget_figures(report: TailorReport) -> list[Safe]:
    """Return plots of the agreement against megabytes, and against milliseconds."""
    return [
        scatter("sizes", "Megabytes", spots(report, "mb"), SIZES),
        scatter("times", "Milliseconds", spots(report, "ms"), TIMES),
    ]


def budget_line(report: TailorReport) -> str:
    """Return the budget, and what the line of a plot means."""
    return (
        f"Budget: {report.max_mb:g} MB and {report.max_ms:g} ms. A grey line joins the models for "
        "which no other one is both better and cheaper."
    )


def rows(report: TailorReport) -> list[list[str]]:
    """Return a row for each model, cheapest first; the first cell is its label on the plots."""
    labels = _labels(report)
    return [_row(labels[entry.name], entry) for entry in report.ranked()]


def write_plot(report: TailorReport, path: Path) -> None:
    """Write both plots side by side as PNG. Raises DataError if it cannot be written."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        draw_spots(left, spots(report, "mb"), SIZES)
        draw_spots(right, spots(report, "ms"), TIMES)

    write_png(path, draw, (9.4, 3.4))


def spots(report: TailorReport, axis: str) -> list[Spot]:
    """Return the evaluated models over ``mb`` or ``ms``, with labels; the winner is larger."""
    labels = _labels(report)
    return [
        Spot(
            labels[entry.name],
            getattr(entry, axis),
            100 * entry.top1,
            colour=COLOURS.get(entry.kind, SERIES[0]),
            highlighted=entry.name == report.winner,
        )
        for entry in report.ranked()
        if entry.top1 is not None
    ]


def _labels(report: TailorReport) -> dict[str, str]:
    """Return the short label of each entry on the plots: T, G, B, or its number by size."""
    letters = {TEACHER: "T", GENERAL: "G", BUNDLE: "B"}
    numbered: Sequence[Entry] = [e for e in report.ranked() if e.kind not in letters]
    numbers = {entry.name: str(number) for number, entry in enumerate(numbered, 1)}
    return {entry.name: letters.get(entry.kind) or numbers[entry.name] for entry in report.entries}


def _row(label: str, entry: Entry) -> list[str]:
    return [
        label,
        entry.name,
        entry.about,
        three_digits(entry.mb),
        three_digits(entry.ms),
        NONE if entry.steps is None else f"{entry.steps:,}",
        _percent(entry.top1),
        _percent(entry.accuracy),
    ]


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"
