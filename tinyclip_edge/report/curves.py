"""Curves of one run, with their numbers and what they come to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from tinyclip_edge.metrics import HEADLINES, METRICS
from tinyclip_edge.report.drawing import (
    FLOOR,
    INK,
    LOSSES,
    SERIES,
    Event,
    Line,
    draw_lines,
    draw_speed,
    loss_lines,
    number,
    points,
    spread,
    stage_starts,
)
from tinyclip_edge.report.figures import figure
from tinyclip_edge.report.html import Safe, element, folded, note, section, table
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.report.words import count, figures, percent, sentence

TOGETHER = ("loss", "affinity", "affinity_i2t", "affinity_t2i", FLOOR)  # one scale
ALONE = tuple(name for name in LOSSES if name not in (*TOGETHER, "kl"))
MOST_ROWS = 60  # of a table of steps
KL = "KL divergence from the teacher's affinities"
SPEED = "Samples a second, and share of time that waited for data"


def training(record: RunRecord) -> Safe:
    """Return curves over steps and their numbers."""
    steps = record.steps
    if not steps:
        return section("training", "Training", note("No step is logged yet."))
    drawn = [_losses(steps), *_alone(record), *_kl(steps)]
    speed = [Line("speed", points(steps, "samples_per_s"))]
    waits = [Line("wait", points(steps, "data_wait", 100))]
    if speed[0].points:
        draw = partial(draw_speed, lines=speed, waits=waits)
        drawn.append(figure("speed", SPEED, draw, caption=_speed_told(steps)))
    stages = "A dotted line: the next stage begins." if stage_starts(steps) else None
    return section(
        "training",
        "Training",
        element("div", *drawn, class_="figures"),
        *([note(stages)] if stages else []),
        folded("Numbers of the curves", _steps(steps)),
    )


def accuracy(record: RunRecord) -> Safe:
    """Return the accuracy over steps beside the teacher's."""
    student, teacher = record.evaluations("student"), record.evaluations("teacher")
    if not student:
        told = "Not measured: the run has no validation pairs, or did not come that far."
        return section("accuracy", "Accuracy", note(told))
    lines = list(_accuracy_lines(student, teacher))
    draw = partial(draw_lines, lines=lines, ylabel="right answers, %", linear=True)
    told = _accuracy_told(student, teacher)
    picture = figure("accuracy", "Accuracy over steps", draw, caption=told)
    rows = [["teacher", *_cells(teacher[-1])]] if teacher else []
    rows += [[f"student, step {event['step']:,}", *_cells(event)] for event in student]
    sizes = student[-1]
    caption = (
        f"Per cent, on {count(sizes.get('images'))} validation pictures and "
        f"{count(sizes.get('labels'))} labels"
    )
    numbers = table(["", *(metric.label for metric in METRICS.values())], rows, caption)
    return section("accuracy", "Accuracy", element("div", picture, numbers, class_="figures"))


def trend(line: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the means of the first and the last tenth, which single steps do not blur."""
    size = max(1, len(line) // 10)
    first, last = ([value for _, value in part] for part in (line[:size], line[-size:]))
    return math.fsum(first) / size, math.fsum(last) / size


def _accuracy_lines(student: Sequence[Event], teacher: Sequence[Event]) -> Iterator[Line]:
    for place, key in enumerate(HEADLINES):
        own = points(student, key, 100)
        if not own:
            continue
        yield Line(METRICS[key].label, own, SERIES[place], marker="o")
        theirs = number(teacher[-1].get(key)) if teacher else None
        if theirs is not None:
            level = [(0.0, 100 * theirs), (max(own[-1][0], 1.0), 100 * theirs)]
            yield Line("", level, SERIES[place], "--")
    if teacher:
        yield Line("teacher", [], INK, "--")


def _accuracy_told(student: Sequence[Event], teacher: Sequence[Event]) -> str:
    """Say what the student reached of the teacher, and where it was best."""
    key = HEADLINES[0]
    own = points(student, key)
    if not own:
        return ""
    (began, first), (step, last) = own[0], own[-1]
    told = f"{sentence(METRICS[key].label)} at step {step:,.0f}: {percent(last)}"
    theirs = number(teacher[-1].get(key)) if teacher else None
    if theirs:
        told += f", {last / theirs:.0%} of the teacher's {percent(theirs)}"
    if began < step:
        told += f"; {percent(first)} at step {began:,.0f}"
    top_step, top = max(own, key=lambda point: point[1])
    if top > last:
        told += f"; best {percent(top)} at step {top_step:,.0f}"
    return f"{told}."


def _losses(steps: Sequence[Event]) -> Safe:
    lines = loss_lines(steps, TOGETHER)
    draw = partial(draw_lines, lines=lines, ylabel="nats", marks=stage_starts(steps))
    floor = (
        "Affinity cannot fall below the teacher's entropy (dashed); what lies between is the KL."
        if points(steps, FLOOR) and points(steps, "affinity")
        else ""
    )
    return figure("loss", "Loss and its terms, without their weights", draw, caption=floor)


def _alone(record: RunRecord) -> Iterator[Safe]:
    """Draw terms of other scales, each by itself."""
    marks = stage_starts(record.steps)
    for name in ALONE:
        for line in loss_lines(record.steps, (name,)):
            title = f"{sentence(line.label)} term, without its weight"
            weight = record.settings.get(f"loss.{name}")
            told = _trend_told(line, f"Its weight in the loss: {weight}. " if weight else "")
            draw = partial(draw_lines, lines=[line], ylabel=line.label, marks=marks)
            yield figure(f"term-{name}", title, draw, caption=told)


def _kl(steps: Sequence[Event]) -> Iterator[Safe]:
    line = Line("KL", points(steps, "kl"))
    if line.points:
        positive = all(value >= 0 for _, value in line.points)
        draw = partial(draw_lines, lines=[line], ylabel="nats", marks=stage_starts(steps),
                       linear=positive, bottom=0 if positive else None)  # fmt: skip
        yield figure("kl", KL, draw, caption=_trend_told(line, "0: the teacher's own. "))


def _trend_told(line: Line, before: str) -> str:
    if len(line.points) < 2:
        return before
    first, last = trend(line.points)
    return f"{before}From {figures(first)} to {figures(last)}, means of a tenth of the steps."


def _speed_told(steps: Sequence[Event]) -> str:
    speeds, waits = (
        sorted(value for _, value in points(steps, key)) for key in ("samples_per_s", "data_wait")
    )
    told = f"Half of the steps ran at {figures(speeds[len(speeds) // 2])} samples/s or more."
    if waits:
        told += f" {percent(math.fsum(waits) / len(waits))} of the time waited for data."
    return told


def _cells(event: Event) -> list[str]:
    return [percent(event.get(key)).removesuffix(" %") for key in METRICS]


def _steps(steps: Sequence[Event]) -> Safe:
    rows = [steps[place] for place in spread(len(steps), MOST_ROWS)]
    keys = [*LOSSES, "lr", "grad_norm", "samples_per_s", "data_wait"]
    shown = [key for key in keys if any(number(row.get(key)) is not None for row in rows)]
    body = [[f"{row['step']:,}", *(figures(row.get(key)) for key in shown)] for row in rows]
    told = f"{len(rows)} of {len(steps)} logged steps; data wait is a share of 1"
    return table(["step", *(key.replace("_", " ") for key in shown)], body, told)
