"""Draw models ranked by many evaluations: scores with intervals, and shares of places."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, NamedTuple

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.report.drawing import HEAT, INK, SERIES
from tinyclip_edge.report.figures import figure, write_png
from tinyclip_edge.report.html import Safe, element, section, table
from tinyclip_edge.report.page import report_page
from tinyclip_edge.report.words import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".html")
KEY, TITLE = "standings", "Which is best"
_SPREAD = 0.6  # share of a row's height that the sets of one model take
_NUMBERS = 12  # most models for which shares are written into their cells
_DARK = 0.6  # share above which a cell needs white digits

Rows = tuple[tuple[float, ...], ...]


class StandingsPicture(NamedTuple):
    """Models from the best to the worst; scores are shares of 1."""

    models: tuple[str, ...]
    sets: tuple[str, ...]
    places: tuple[int, ...]
    scores: Rows  # of each model on each set
    lows: Rows
    highs: Rows
    shares: Rows  # of the resamples in which each model is at each place
    caption: str  # which differences are certain


def set_letter(place: int) -> str:
    """Return the letter of a set: A, B … Z, A1, B1 …"""
    letters = len(ascii_uppercase)
    return ascii_uppercase[place % letters] + (str(place // letters) if place >= letters else "")


def standings_section(picture: StandingsPicture) -> Safe:
    """Return the part of a page, with its table and figure."""
    head = ["", "place", *picture.sets]
    rows = [
        [name, str(place), *map(percent, scores)]
        for name, place, scores in zip(picture.models, picture.places, picture.scores, strict=True)
    ]
    height = 1.6 + 0.35 * len(picture.models)
    drawing = figure(
        KEY, TITLE, partial(draw_standings, picture=picture), caption=_legend(picture),
        inches=(9.0, height),
    )  # fmt: skip
    return section(
        KEY, TITLE, table(head, rows, f"{picture.caption}; accuracy in %"),
        element("div", drawing, class_="figures"),
    )  # fmt: skip


def check_plot(path: Path) -> None:
    """Raise ConfigError for a plot's name that is neither PNG nor HTML, or is a folder."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: plots are written as {' or '.join(SUFFIXES)}; change the name")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give a file name in it")


def write_standings(picture: StandingsPicture, path: Path) -> None:
    """Write a PNG, or a page with the table. Raises ConfigError for another kind of file."""
    check_plot(path)
    if path.suffix.lower() == ".html":
        page = report_page(
            TITLE, [element("h1", TITLE)], [standings_section(picture)], origin="measurements"
        )
        with file_written_aside(path) as file:
            file.write(page.encode())
        return

    def draw(drawing: Figure) -> None:
        draw_standings(drawing, picture)
        drawing.suptitle(_legend(picture), fontsize=8, parse_math=False)

    write_png(path, draw, (9.0, 2.0 + 0.35 * len(picture.models)))


def draw_standings(figure: Figure, picture: StandingsPicture) -> None:
    """Draw scores with their intervals on the left, shares of places on the right."""
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_scores(left, picture)
    right.imshow(picture.shares, vmin=0, vmax=1, cmap="Blues", **{**HEAT, "origin": "upper"})
    count = len(picture.models)
    if count <= _NUMBERS:
        for row, shares in enumerate(picture.shares):
            for place, share in enumerate(shares):
                colour = "white" if share > _DARK else INK
                if share >= 0.005:  # shown as 1 %
                    right.text(place, row, f"{100 * share:.0f}", color=colour, ha="center",
                               va="center", fontsize=8)  # fmt: skip
    right.set_xticks(range(count), [str(place + 1) for place in range(count)])
    right.set(xlabel="place, % of the resamples")
    # A user's text is never parsed as a formula.
    left.set_yticks(range(count))
    left.set_yticklabels(picture.models, parse_math=False)


def _draw_scores(axes: Axes, picture: StandingsPicture) -> None:
    sets = len(picture.sets)
    for place in range(sets):
        offset = _SPREAD * ((place + 0.5) / sets - 0.5)
        values, lows, highs = (
            [100 * row[place] for row in rows]
            for rows in (picture.scores, picture.lows, picture.highs)
        )
        ys = [row + offset for row in range(len(values))]
        colour = SERIES[place % len(SERIES)]
        axes.hlines(ys, lows, highs, color=colour, lw=1.2)
        axes.plot(values, ys, "o", color=colour, ms=4, label=set_letter(place))
    axes.set(xlabel="accuracy, %, with its 95 % interval")
    axes.grid(axis="x")
    if sets > 1:
        axes.figure.legend(loc="outside lower left", ncols=min(sets, 8))


def _legend(picture: StandingsPicture) -> str:
    names = (f"{set_letter(place)}: {name}" for place, name in enumerate(picture.sets))
    return f"{'; '.join(names)}. {picture.caption}"
