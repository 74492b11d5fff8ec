"""Masks of a run: heat maps of the units left, sparsity against its target, gates, prunes."""

from __future__ import annotations

from tinyclip_edge.train.drawing import (
    TOWERS,
    Event,
    draw_histograms,
    draw_sparsity,
    draw_units,
)
from tinyclip_edge.train.report.figures import INCHES, figure
from tinyclip_edge.train.report.html import Safe, element, note, section, table
from tinyclip_edge.train.report.record import RunRecord
from tinyclip_edge.train.report.words import NONE, count, percent

TALL = (INCHES[0], 4.6)


def masks(record: RunRecord) -> Safe | None:
    """Return what masks did, None for a run without them."""
    gates, prunes = record.of("gates"), record.of("prune")
    masked = [event for event in record.steps if "sparsity" in event]
    if not (gates or prunes or masked):
        return None
    drawn = []
    if gates:
        drawn += [_heat(gates, tower) for tower in TOWERS]
        drawn += [_histogram(gates, tower) for tower in TOWERS]
    if masked:
        title = "Sparsity against its target"
        drawn.append(figure("sparsity", title, lambda page: draw_sparsity(page, masked)))
    rows = [_row(event) for event in prunes]
    numbers = (
        table(
            ["prune", "kept", "wanted", "met", "channels", "heads by layer", "neurons by layer"],
            [row for pair in rows for row in pair],
            "What was left; kept: share of the teacher's prunable parameters",
        )
        if rows
        else note("The gates are not cut out yet.")
    )
    return section("masks", "Masks", element("div", *drawn, class_="figures"), numbers)


def _heat(gates: list[Event], tower: str) -> Safe:
    return figure(
        f"units-{tower}",
        f"Heads and neurons left in the {tower} tower",
        lambda page: draw_units(page, gates, (tower,)),
        caption="By layer and step.",
        inches=TALL,
    )


def _histogram(gates: list[Event], tower: str) -> Safe:
    return figure(
        f"gates-{tower}",
        f"Gates of the {tower} tower by log-alpha",
        lambda page: draw_histograms(page, gates, (tower,)),
        caption="Low: closed, high: open.",
    )


def _row(event: Event) -> list[list[str]]:
    met = event.get("met")
    shared = [percent(event.get("kept")), percent(event.get("keep")), "yes" if met else "no"]
    return [
        [
            f"step {event['step']:,}, {tower} tower",
            *shared,
            count(event[tower].get("width", NONE)),
            ", ".join(f"{number:g}" for number in event[tower]["heads"]),
            ", ".join(f"{number:g}" for number in event[tower]["neurons"]),
        ]
        for tower in TOWERS
    ]
