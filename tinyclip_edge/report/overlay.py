"""Several runs on one page: one figure with the same curve of each, and their differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from tinyclip_edge.config.loss import loss_names
from tinyclip_edge.errors import DataError
from tinyclip_edge.metrics import HEADLINES, METRICS, metrics_of
from tinyclip_edge.report.bundles import Bundle
from tinyclip_edge.report.compared import compared_bundles
from tinyclip_edge.report.curves import KL, SPEED, metric_cell, separate_losses, trend
from tinyclip_edge.report.drawing import (
    INK,
    SERIES,
    Line,
    draw_lines,
    draw_speed,
    points,
)
from tinyclip_edge.report.figures import figure
from tinyclip_edge.report.html import Safe, element, note, section, table
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.report.sections import STATUS
from tinyclip_edge.report.words import (
    NONE,
    count,
    duration,
    figures,
    millions,
    sentence,
)

MAX_RUNS = len(SERIES)
LETTERS = "ABCDEFGH"


def overlay(
    records: Sequence[RunRecord], bundles_by_run: Sequence[Sequence[Bundle]]
) -> list[tuple[str, str, Safe]]:
    """Return the parts of the page, each with its key and name.

    Raises DataError for more runs than there are colours.
    """
    if len(records) > MAX_RUNS:
        raise DataError(
            f"{len(records):,} runs are too many for one figure; use at most {MAX_RUNS}"
        )
    bundles = compared_bundles(list(zip(LETTERS, records, bundles_by_run, strict=False)))
    training = [*_terms(records), *_speed(records)]
    parts = [
        ("about", "Runs", section("about", "The runs", _key(records), _summary(records))),
        ("accuracy", "Accuracy", section("accuracy", "Accuracy", _figures(_accuracies(records)))),
        ("training", "Training", section("training", "Training", _figures(training))),
        *([("compared", "Bundles", bundles)] if bundles is not None else []),
        ("differences", "Configurations", _differences(records)),
    ]
    return parts


def _key(records: Sequence[RunRecord]) -> Safe:
    items = (
        element(
            "li",
            element(
                "span", class_="swatch", style=f"background:var(--s{place})", aria_hidden="true"
            ),
            element("b", LETTERS[place]),
            f" {record.folder}",
        )
        for place, record in enumerate(records)
    )
    return element("ul", *items, class_="key", aria_label="Which curve is which run")


def _summary(records: Sequence[RunRecord]) -> Safe:
    rows = []
    finals = [(record.evaluations("student") or [{}])[-1] for record in records]
    shown = metrics_of({key: None for final in finals for key in final})
    for letter, record, final in zip(LETTERS, records, finals, strict=False):
        start = record.start
        kl = points(record.steps, "kl")
        rows.append(
            [
                f"{letter} {record.name}",
                STATUS.get(record.status, record.status).split(",")[0],
                start.get("teacher", NONE),
                start.get("student", NONE),
                millions(start.get("encoder_parameters")),
                f"{record.steps_done:,} of {count(start.get('steps'))}",
                duration(record.seconds),
                figures(kl[-1][1]) if kl else NONE,
                *(metric_cell(metric, final) for metric in shown),
            ]
        )
    head = ["run", "state", "teacher", "student", "both towers", "steps", "time", "KL, last"]
    return table([*head, *(metric.label for metric in shown)], rows, "Final values of each run")


def _accuracies(records: Sequence[RunRecord]) -> Iterator[Safe]:
    for key in HEADLINES:
        lines = list(_accuracy_lines(records, key))
        if lines:
            title = f"{sentence(METRICS[key].label)} over steps"
            draw = partial(draw_lines, lines=lines, ylabel="correct, %", linear=True)
            last = ", ".join(f"{n.label} {n.points[-1][1]:.1f} %" for n in lines if n.label)
            caption = (
                f"Dashed: the teacher. At the end: {last}." if last else "Dashed: the teacher."
            )
            yield figure(f"accuracy-{key}", title, draw, caption=caption)


def _accuracy_lines(records: Sequence[RunRecord], key: str) -> Iterator[Line]:
    last = max(record.steps_done for record in records) or 1
    levels: dict[float, str] = {}
    for letter, colour, record in zip(LETTERS, SERIES, records, strict=False):
        student_points = points(record.evaluations("student"), key, 100)
        if student_points:
            yield Line(letter, student_points, colour, marker="o")
        for _, level in points(record.evaluations("teacher")[-1:], key, 100):
            # A level that several runs share has a neutral colour.
            levels[level] = INK if level in levels else colour
    for level, colour in levels.items():
        yield Line("", [(0.0, level), (float(last), level)], colour, "--")


def _terms(records: Sequence[RunRecord]) -> Iterator[Safe]:
    drawn_lines: list[list[Line]] = []
    for key in loss_names():
        lines = _lines(records, key)
        if lines and lines not in drawn_lines:  # a single term equals the loss
            drawn_lines.append(lines)
            name = key.replace("_", " ")
            draw = partial(
                draw_lines, lines=lines, ylabel=name if key in separate_losses() else "nats"
            )
            last = ", ".join(f"{line.label} {figures(trend(line.points)[1])}" for line in lines)
            caption = f"Mean of the last tenth: {last}."
            title = KL if key == "kl" else f"{sentence(name)} over steps"
            yield figure(f"term-{key}", title, draw, caption=caption)


def _speed(records: Sequence[RunRecord]) -> Iterator[Safe]:
    lines, waits = _lines(records, "samples_per_s"), _lines(records, "data_wait", 100)
    if lines:
        yield figure("speed", SPEED, partial(draw_speed, lines=lines, waits=waits))


def _lines(records: Sequence[RunRecord], key: str, factor: float = 1.0) -> list[Line]:
    lines = (
        Line(letter, points(record.steps, key, factor), colour)
        for letter, colour, record in zip(LETTERS, SERIES, records, strict=False)
    )
    return [line for line in lines if line.points]


def _figures(figures: Sequence[Safe] | Iterator[Safe]) -> Safe:
    items = list(figures)
    return (
        element("div", *items, class_="figures") if items else note("Nothing has been logged yet.")
    )


def _differences(records: Sequence[RunRecord]) -> Safe:
    settings = [record.settings for record in records]
    keys = dict.fromkeys(key for setting in settings for key in setting)
    rows = [
        [key, *(setting.get(key, NONE) for setting in settings)]
        for key in keys
        if len({setting.get(key, "null") for setting in settings}) > 1
    ]
    if not rows:
        return section("differences", "Configurations", note("None."))
    head = ["key", *(LETTERS[: len(records)])]
    return section(
        "differences",
        "Configurations",
        element("div", table(head, rows, "Keys in which the runs differ"), class_="words"),
    )
