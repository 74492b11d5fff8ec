"""Curves of one run, with their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from tinyclip_edge.train.drawing import (
    LOSSES,
    SERIES,
    Event,
    Line,
    draw_lines,
    draw_losses,
    draw_speed,
    number,
    points,
    spread,
    stage_starts,
)
from tinyclip_edge.train.report.figures import figure
from tinyclip_edge.train.report.html import Safe, element, folded, note, section, table
from tinyclip_edge.train.report.record import ACCURACIES, RunRecord
from tinyclip_edge.train.report.words import count, figures, percent

DRAWN = ("t2i_r1", "i2t_r1", "zero_shot_100")
MOST_ROWS = 60  # of a table of steps


def training(record: RunRecord) -> Safe:
    """Return curves over steps and their numbers."""
    steps = record.steps
    if not steps:
        return section("training", "Training", note("No step is logged yet."))
    drawn = [figure("loss", "Loss terms over steps", lambda page: draw_losses(page, steps))]
    kl = points(steps, "kl")
    if kl:
        drawn.append(
            figure(
                "kl",
                "KL divergence from the teacher's affinities",
                lambda page: draw_lines(page, [Line("KL", kl)], "nats", stage_starts(steps)),
            )
        )
    speed = [Line("speed", points(steps, "samples_per_s"))]
    waits = [Line("wait", points(steps, "data_wait", 100))]
    drawn.append(
        figure(
            "speed",
            "Samples a second, and share of time that waited for data",
            lambda page: draw_speed(page, speed, waits),
        )
    )
    body = [element("div", *drawn, class_="figures")]
    return section("training", "Training", *body, folded("Numbers of the curves", _steps(steps)))


def accuracy(record: RunRecord) -> Safe:
    """Return the accuracy over steps beside the teacher's."""
    student, teacher = record.evaluations("student"), record.evaluations("teacher")
    if not student:
        told = "Not measured: the run has no validation pairs, or did not come that far."
        return section("accuracy", "Accuracy", note(told))
    lines = []
    for place, key in enumerate(DRAWN):
        own = points(student, key, 100)
        lines.append(Line(ACCURACIES[key], own, SERIES[place], marker="o"))
        theirs = number(teacher[-1].get(key)) if teacher else None
        if theirs is not None and own:
            level = [(0.0, 100 * theirs), (max(own[-1][0], 1.0), 100 * theirs)]
            lines.append(Line("", level, SERIES[place], "--"))
    picture = figure(
        "accuracy",
        "Accuracy over steps",
        lambda page: draw_lines(page, lines, "%", linear=True),
        caption="Dashed in the same colour: the teacher.",
    )
    rows = [["teacher", *_cells(teacher[-1])]] if teacher else []
    rows += [[f"student, step {event['step']:,}", *_cells(event)] for event in student]
    sizes = student[-1]
    caption = (
        f"Per cent, on {count(sizes.get('images'))} validation pictures and "
        f"{count(sizes.get('labels'))} labels"
    )
    numbers = table(["", *ACCURACIES.values()], rows, caption)
    return section("accuracy", "Accuracy", element("div", picture, numbers, class_="figures"))


def _cells(event: Event) -> list[str]:
    return [percent(event.get(key)).removesuffix(" %") for key in ACCURACIES]


def _steps(steps: Sequence[Event]) -> Safe:
    rows = [steps[place] for place in spread(len(steps), MOST_ROWS)]
    keys = [*LOSSES, "lr", "grad_norm", "samples_per_s", "data_wait"]
    shown = [key for key in keys if any(number(row.get(key)) is not None for row in rows)]
    body = [[f"{row['step']:,}", *(figures(row.get(key)) for key in shown)] for row in rows]
    told = f"{len(rows)} of {len(steps)} logged steps; data wait is a share of 1"
    return table(["step", *(key.replace("_", " ") for key in shown)], body, told)
