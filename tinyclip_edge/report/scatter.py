"""Scatter plots of a gain against its cost, with the Pareto front drawn as a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tinyclip_edge.report.drawing import FAINT, INK, SERIES
from tinyclip_edge.report.figures import figure
from tinyclip_edge.report.html import Safe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEAR = 0.025  # of an axis: closer points share their label


@dataclass(frozen=True, slots=True)
class Spot:
    """A point; ``label`` is never a user's text, which matplotlib may take for a formula."""

    label: str
    x: float
    y: float
    error: float = 0.0  # standard error of y
    colour: str = SERIES[0]
    highlighted: bool = False


def pareto_front(spots: Sequence[Spot], *, lower: bool = False) -> list[Spot]:
    """Return the spots that no other dominates: lower x and higher y (``lower``: lower y)."""
    sign = 1.0 if lower else -1.0
    front: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.x, sign * spot.y)):
        if not front or sign * spot.y < sign * front[-1].y:
            front.append(spot)
    return front


def scatter(
    key: str,
    title: str,
    spots: Sequence[Spot],
    axes: tuple[str, str],
    *,
    lower: bool = False,
    caption: str = "",
) -> Safe:
    """Return a figure of the spots; ``axes`` are the labels of x and y, with their units."""
    draw = partial(_draw, spots=spots, labels=axes, lower=lower)
    return figure(key, title, draw, caption=caption)


def _draw(figure: Figure, spots: Sequence[Spot], labels: tuple[str, str], *, lower: bool) -> None:
    draw_spots(figure.subplots(), spots, labels, lower=lower)


def draw_spots(
    axes: Axes, spots: Sequence[Spot], labels: tuple[str, str], *, lower: bool = False
) -> None:
    """Draw spots and their front; ``labels`` are those of x and y, with their units."""
    front = pareto_front(spots, lower=lower)
    axes.plot([s.x for s in front], [s.y for s in front], "-", color=FAINT, lw=1, zorder=1)
    for spot in spots:
        axes.errorbar(spot.x, spot.y, spot.error or None, fmt="o", ms=8 if spot.highlighted else 5,
                      color=spot.colour, elinewidth=0.8, capsize=2)  # fmt: skip
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.margins(0.12)
    axes.set_xlim(left=0)
    if lower:
        axes.invert_yaxis()
    for spot in _merged(axes, spots):
        axes.annotate(spot.label, (spot.x, spot.y), xytext=(5, 5), textcoords="offset points",
                      color=INK, fontsize=9)  # fmt: skip
    axes.grid()


def _merged(axes: Axes, spots: Sequence[Spot]) -> list[Spot]:
    """Merge the labels of spots that would overlap."""
    (x_min, x_max), (y_min, y_max) = axes.get_xlim(), axes.get_ylim()
    x_distance, y_distance = NEAR * abs(x_max - x_min), NEAR * abs(y_max - y_min)
    merged: list[Spot] = []
    for spot in spots:
        for index, neighbour in enumerate(merged):
            if abs(neighbour.x - spot.x) < x_distance and abs(neighbour.y - spot.y) < y_distance:
                merged[index] = replace(neighbour, label=f"{neighbour.label}, {spot.label}")
                break
        else:
            merged.append(spot)
    return merged
