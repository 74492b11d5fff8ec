"""Draw logged events as matplotlib figures, for the PNG plots and for the report page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from tinyclip_edge.config.loss import loss_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Event: TypeAlias = "dict[str, Any]"
Points: TypeAlias = "list[tuple[float, float]]"

FLOOR = "teacher_entropy"  # lower bound of the affinity terms; the excess over it is the KL
TOWERS = ("image", "text")
LARGEST = 1e100  # beyond it, axes overflow
MAX_POINTS = 400  # points of a line; a page is not wide enough to show more
WIDE = 100  # ratio of the largest to the smallest loss above which the axis is logarithmic

# Light theme; a page may replace each colour by its own.
INK, FAINT = "#15181e", "#8a93a1"
SERIES = ("#3b5bdb", "#c2570c", "#0f8a6c", "#9c36b5", "#b02a4c", "#0b7285", "#7a5c00", "#5c636e")
STYLE: Mapping[str, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 9,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}
HEAT: Mapping[str, Any] = {"aspect": "auto", "origin": "lower", "interpolation": "none"}


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; ``label`` is never a user's text, which matplotlib may take for a formula."""

    label: str
    points: Points
    colour: str = SERIES[0]
    style: str = "-"
    marker: str = ""


def number(value: object) -> float | None:
    """Return a number that can be drawn as float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -LARGEST <= value <= LARGEST else None  # neither NaN nor infinity


def points(events: Iterable[Event], key: str, factor: float = 1.0) -> Points:
    """Return (step, value) of the events that have the value."""
    values = ((event["step"], number(event.get(key))) for event in events)
    return [(float(step), factor * value) for step, value in values if value is not None]


def thinned(line: Points, limit: int = MAX_POINTS) -> Points:
    """Return at most ``limit`` points, each the mean of a run of neighbours."""
    size = math.ceil(len(line) / limit)
    if size <= 1:
        return line
    parts = (line[start : start + size] for start in range(0, len(line), size))
    return [
        (math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part))
        for part in parts
    ]


def loss_lines(steps: Sequence[Event], names: Sequence[str] | None = None) -> list[Line]:
    """Return a line for each loss term, or each of ``names``; equal values share one."""
    lines: list[Line] = []
    for name in loss_names() if names is None else names:
        values, label = points(steps, name), name.replace("_", " ")
        same = [place for place, line in enumerate(lines) if line.points == values]
        if same:  # a single term equals the loss
            lines[same[0]] = replace(lines[same[0]], label=f"{lines[same[0]].label}, {label}")
        elif values:
            floor = name == FLOOR
            style = "--" if floor or len(lines) >= len(SERIES) else "-"
            colour = INK if floor else SERIES[len(lines) % len(SERIES)]
            lines.append(Line(label, values, colour, style))
    return lines


def draw_losses(figure: Figure, steps: Sequence[Event]) -> None:
    """Draw every loss term."""
    draw_lines(figure, loss_lines(steps), "loss term, without its weight", stage_starts(steps))


def draw_sparsity(figure: Figure, steps: Sequence[Event]) -> None:
    """Draw the expected sparsity of the gates and its target."""
    lines = [
        Line("target", points(steps, "sparsity_target", 100), INK, "--"),
        Line("expected from the gates", points(steps, "sparsity", 100)),
    ]
    draw_lines(figure, lines, "parameters removed, %", stage_starts(steps), linear=True)


def draw_lines(
    figure: Figure,
    lines: Sequence[Line],
    ylabel: str,
    marks: Sequence[float] = (),
    *,
    linear: bool = False,
    bottom: float | None = None,
) -> None:
    """Draw curves over steps, with a legend and a vertical line at each of ``marks``.

    A line without points appears only in the legend.
    """
    axes = figure.subplots()
    for line in lines:
        xs, ys = zip(*thinned(line.points), strict=True) if line.points else ((), ())
        axes.plot(xs, ys, line.style, color=line.colour, marker=line.marker, ms=3.5, lw=1.3,
                  label=line.label or "_nolegend_")  # fmt: skip
    values = [abs(y) for line in lines for _, y in line.points if y]
    negative = any(y < 0 for line in lines for _, y in line.points)
    if not linear and values and (negative or max(values) > WIDE * min(values)):
        axes.set_yscale("symlog", linthresh=max(min(values), max(values) / 1e4))
    _finish(axes, ylabel, marks)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    labels = [line.label for line in lines if line.label]
    if len(labels) > 1:
        columns = 3 if max(map(len, labels)) > 1 else len(labels)
        figure.legend(loc="outside upper left", ncols=columns, handlelength=1.6, columnspacing=1.2)


def draw_speed(figure: Figure, lines: Sequence[Line], waits: Sequence[Line]) -> None:
    """Draw samples/s, and below it the percentage of time spent waiting for data."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for axes, group, ylabel in (
        (above, lines, "samples/s"),
        (below, waits, "waiting for\ndata, % of time"),
    ):
        for line in group:
            if line.points:
                xs, ys = zip(*thinned(line.points), strict=True)
                axes.plot(xs, ys, line.style, color=line.colour, lw=1.2, label=line.label)
        _finish(axes, ylabel, ())
        axes.set_ylim(bottom=0)
    above.set_xlabel("")
    if len(lines) > 1:
        figure.legend(*above.get_legend_handles_labels(), loc="outside upper left",
                      ncols=len(lines), handlelength=1.6, columnspacing=1.2)  # fmt: skip


def draw_units(figure: Figure, gates: Sequence[Event], towers: Sequence[str] = TOWERS) -> None:
    """Draw heat maps by tower and kind of unit: layers upwards, steps to the right."""
    grid = figure.subplots(2, len(towers), squeeze=False)
    for tower, column in zip(towers, grid.T, strict=True):
        for axes, kind in zip(column, ("heads", "neurons"), strict=True):
            layers = max(len(event[tower][kind]) for event in gates)
            shares = [
                [_at(event[tower][kind], layer) for event in gates] for layer in range(layers)
            ]
            image = axes.imshow(shares, vmin=0, cmap="viridis", **HEAT)
            axes.set(title=f"{tower} tower: {kind} left", ylabel="layer")
            ticks = evenly_spaced(layers)
            axes.set_yticks(ticks, [str(i) for i in ticks])
            _step_ticks(axes, gates)
            figure.colorbar(image, ax=axes)


def draw_histograms(figure: Figure, gates: Sequence[Event], towers: Sequence[str] = TOWERS) -> None:
    """Draw a histogram of the gates' log-alpha over time."""
    from matplotlib.colors import LogNorm

    from tinyclip_edge.inheritance.gates import CLAMP

    for axes, tower in zip(figure.subplots(1, len(towers), squeeze=False)[0], towers, strict=True):
        columns = [[count + 0.5 for count in event[tower]["log_alpha"]] for event in gates]
        image = axes.imshow(
            list(zip(*columns, strict=True)),
            cmap="magma",
            norm=LogNorm(vmin=0.5),
            extent=(-0.5, len(gates) - 0.5, -CLAMP, CLAMP),
            **HEAT,
        )
        _step_ticks(axes, gates)
        axes.set(title=f"{tower} tower: gates", ylabel="log-alpha")
        # Otherwise every label of a logarithmic minor tick is measured, though none is shown.
        figure.colorbar(image, ax=axes, label="gates").minorticks_off()


def stage_starts(steps: Sequence[Event]) -> list[float]:
    """Return the steps at which a stage begins, except the first."""
    return [
        float(after["step"])
        for before, after in pairwise(steps)
        if before.get("stage") != after.get("stage")
    ]


def evenly_spaced(count: int, limit: int = 6) -> list[int]:
    """Return at most ``limit`` indices from the first to the last."""
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / max(limit - 1, 1)) for i in range(limit)]


def _at(units: Sequence[float], layer: int) -> float:
    return units[layer] if layer < len(units) else math.nan


def _step_ticks(axes: Axes, gates: Sequence[Event]) -> None:
    ticks = evenly_spaced(len(gates))
    axes.set_xticks(ticks, [str(gates[i]["step"]) for i in ticks])
    axes.set_xlabel("step")


def _finish(axes: Axes, ylabel: str, marks: Sequence[float]) -> None:
    for mark in marks:
        axes.axvline(mark, color=FAINT, lw=0.8, ls=":")
    axes.set(xlabel="step", ylabel=ylabel)
    axes.grid()
