"""Training and accuracy curves of one run, with captions that sum them up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from tinyclip_edge.config.loss import loss_names
from tinyclip_edge.metrics import HEADLINES, METRICS, Metric, metrics_of
from tinyclip_edge.report.drawing import (
    FLOOR,
    INK,
    SERIES,
    Event,
    Line,
    draw_lines,
    draw_speed,
    evenly_spaced,
    loss_lines,
    number,
    points,
    stage_starts,
)
from tinyclip_edge.report.figures import figure
from tinyclip_edge.report.html import Safe, element, folded, note, section, table
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.report.words import NONE, count, figures, percent, sentence

SAME_SCALE = ("loss", "affinity", "affinity_i2t", "affinity_t2i", FLOOR)  # one scale
MAX_ROWS = 60  # of a table of steps
KL = "KL divergence from the teacher's affinities"
SPEED = "Samples per second, and share of time spent waiting for data"


def training(record: RunRecord) -> Safe:
    """Return curves over steps and their numbers."""
    steps = record.steps
    if not steps:
        return section("training", "Training", note("No steps have been logged yet."))
    figures = [_losses(steps), *_separate_terms(record), *_kl(steps)]
    speed = [Line("speed", points(steps, "samples_per_s"))]
    waits = [Line("wait", points(steps, "data_wait", 100))]
    if speed[0].points:
        draw = partial(draw_speed, lines=speed, waits=waits)
        figures.append(figure("speed", SPEED, draw, caption=_speed_caption(steps)))
    stage_note = "Dotted lines: start of the next stage." if stage_starts(steps) else None
    return section(
        "training",
        "Training",
        element("div", *figures, class_="figures"),
        *([note(stage_note)] if stage_note else []),
        folded("Values of the curves", _steps(steps)),
    )


def accuracy(record: RunRecord) -> Safe:
    """Return the accuracy over steps and the teacher's level."""
    student, teacher = record.evaluations("student"), record.evaluations("teacher")
    if not student:
        text = "Not measured: the run has no validation pairs, or has not reached an evaluation."
        return section("accuracy", "Accuracy", note(text))
    lines = list(_accuracy_lines(student, teacher))
    draw = partial(draw_lines, lines=lines, ylabel="correct, %", linear=True)
    text = _accuracy_caption(student, teacher)
    plot = figure("accuracy", "Accuracy over steps", draw, caption=text)
    shown = metrics_of(student[-1])
    rows = [["teacher", *_cells(teacher[-1], shown)]] if teacher else []
    rows += [[f"student, step {event['step']:,}", *_cells(event, shown)] for event in student]
    last_evaluation = student[-1]
    caption = (
        f"Per cent, on {count(last_evaluation.get('images'))} validation pictures and "
        f"{count(last_evaluation.get('labels'))} labels"
    )
    numbers = table(["", *(metric.label for metric in shown)], rows, caption)
    return section("accuracy", "Accuracy", element("div", plot, numbers, class_="figures"))


def separate_losses() -> tuple[str, ...]:
    """Return the loss terms whose scale differs from that of the others."""
    return tuple(name for name in loss_names() if name not in (*SAME_SCALE, "kl"))


def trend(line: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the means of the first and the last tenth, which smooth out single steps."""
    size = max(1, len(line) // 10)
    first, last = ([value for _, value in part] for part in (line[:size], line[-size:]))
    return math.fsum(first) / size, math.fsum(last) / size


def _accuracy_lines(student: Sequence[Event], teacher: Sequence[Event]) -> Iterator[Line]:
    for index, key in enumerate(HEADLINES):
        student_points = points(student, key, 100)
        if not student_points:
            continue
        yield Line(METRICS[key].label, student_points, SERIES[index], marker="o")
        teacher_accuracy = number(teacher[-1].get(key)) if teacher else None
        if teacher_accuracy is not None:
            level = [
                (0.0, 100 * teacher_accuracy),
                (max(student_points[-1][0], 1.0), 100 * teacher_accuracy),
            ]
            yield Line("", level, SERIES[index], "--")
    if teacher:
        yield Line("teacher", [], INK, "--")


def _accuracy_caption(student: Sequence[Event], teacher: Sequence[Event]) -> str:
    """Describe the student's accuracy relative to the teacher's, and its best step."""
    key = HEADLINES[0]
    accuracies = points(student, key)
    if not accuracies:
        return ""
    (first_step, first), (step, last) = accuracies[0], accuracies[-1]
    text = f"{sentence(METRICS[key].label)} at step {step:,.0f}: {percent(last)}"
    teacher_accuracy = number(teacher[-1].get(key)) if teacher else None
    if teacher_accuracy:
        text += f", {last / teacher_accuracy:.0%} of the teacher's {percent(teacher_accuracy)}"
    if first_step < step:
        text += f"; {percent(first)} at step {first_step:,.0f}"
    top_step, top = max(accuracies, key=lambda point: point[1])
    if top > last:
        text += f"; best {percent(top)} at step {top_step:,.0f}"
    return f"{text}."


def _losses(steps: Sequence[Event]) -> Safe:
    lines = loss_lines(steps, SAME_SCALE)
    draw = partial(draw_lines, lines=lines, ylabel="nats", marks=stage_starts(steps))
    floor = (
        "Affinity cannot fall below the teacher's entropy (dashed); the difference is the KL."
        if points(steps, FLOOR) and points(steps, "affinity")
        else ""
    )
    return figure("loss", "Loss and its terms, without their weights", draw, caption=floor)


def _separate_terms(record: RunRecord) -> Iterator[Safe]:
    """Draw each term with a different scale in a separate figure."""
    marks = stage_starts(record.steps)
    for name in separate_losses():
        for line in loss_lines(record.steps, (name,)):
            title = f"{sentence(line.label)} term, without its weight"
            weight = record.settings.get(f"loss.{name}")
            caption = _trend_caption(line, f"Its weight in the loss: {weight}. " if weight else "")
            draw = partial(draw_lines, lines=[line], ylabel=line.label, marks=marks)
            yield figure(f"term-{name}", title, draw, caption=caption)


def _kl(steps: Sequence[Event]) -> Iterator[Safe]:
    line = Line("KL", points(steps, "kl"))
    if line.points:
        positive = all(value >= 0 for _, value in line.points)
        draw = partial(draw_lines, lines=[line], ylabel="nats", marks=stage_starts(steps),
                       linear=positive, bottom=0 if positive else None)  # fmt: skip
        yield figure("kl", KL, draw, caption=_trend_caption(line, "0: the same as the teacher. "))


def _trend_caption(line: Line, prefix: str) -> str:
    if len(line.points) < 2:
        return prefix
    first, last = trend(line.points)
    return f"{prefix}From {figures(first)} to {figures(last)}, means of a tenth of the steps."


def _speed_caption(steps: Sequence[Event]) -> str:
    speeds, waits = (
        sorted(value for _, value in points(steps, key)) for key in ("samples_per_s", "data_wait")
    )
    text = f"Median speed: {figures(speeds[len(speeds) // 2])} samples/s."
    if waits:
        text += f" {percent(math.fsum(waits) / len(waits))} of the time was spent waiting for data."
    return text


def metric_cell(metric: Metric, event: Event) -> str:
    """Return a metric of an evaluation with its unit; a dash where it was not measured."""
    value = number(event.get(metric.key))
    return NONE if value is None else metric.text(value)


def _cells(event: Event, shown: Sequence[Metric]) -> list[str]:
    return [metric_cell(metric, event).removesuffix(" %") for metric in shown]


def _steps(steps: Sequence[Event]) -> Safe:
    rows = [steps[place] for place in evenly_spaced(len(steps), MAX_ROWS)]
    keys = [*loss_names(), "lr", "grad_norm", "samples_per_s", "data_wait"]
    columns = [key for key in keys if any(number(row.get(key)) is not None for row in rows)]
    body = [[f"{row['step']:,}", *(figures(row.get(key)) for key in columns)] for row in rows]
    caption = f"{len(rows):,} of {len(steps):,} logged steps; data wait is a share of 1"
    return table(["step", *(key.replace("_", " ") for key in columns)], body, caption)
