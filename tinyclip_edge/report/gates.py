"""Masks of a run: remaining units as heat maps, sparsity against its target, gates, pruning."""

from __future__ import annotations

import math
from functools import partial

from tinyclip_edge.report.drawing import (
    TOWERS,
    Event,
    draw_histograms,
    draw_sparsity,
    draw_units,
)
from tinyclip_edge.report.figures import INCHES, figure
from tinyclip_edge.report.html import Safe, element, note, section, table
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.report.words import NONE, count, percent

TALL = (INCHES[0], 4.6)


def masks(record: RunRecord) -> Safe | None:
    """Return the section on masks, None for a run without them."""
    gates, prunes = record.of("gates"), record.of("prune")
    masked = [event for event in record.steps if "sparsity" in event]
    if not (gates or prunes or masked):
        return None
    figures = []
    if gates:
        figures += [_heat(gates, tower) for tower in TOWERS]
        figures += [_histogram(gates, tower) for tower in TOWERS]
    if masked:
        title, draw = "Sparsity against its target", partial(draw_sparsity, steps=masked)
        figures.append(figure("sparsity", title, draw, caption=_sparsity_caption(masked[-1])))
    numbers = _prunes(prunes) if prunes else note("No pruning has been logged yet.")
    return section("masks", "Masks", element("div", *figures, class_="figures"), numbers)


def _heat(gates: list[Event], tower: str) -> Safe:
    return figure(
        f"units-{tower}",
        f"Heads and neurons left in the {tower} tower",
        partial(draw_units, gates=gates, towers=(tower,)),
        caption=_units_caption(gates, tower),
        inches=TALL,
    )


def _histogram(gates: list[Event], tower: str) -> Safe:
    return figure(
        f"gates-{tower}",
        f"Gates of the {tower} tower by log-alpha",
        partial(draw_histograms, gates=gates, towers=(tower,)),
        caption="Low: closed, high: open. A gap between the two means that most gates are decided.",
    )


def _units_caption(gates: list[Event], tower: str) -> str:
    """Describe how many units remain of the initial ones."""
    parts = []
    for kind in ("heads", "neurons"):
        first, last = (math.fsum(event[tower][kind]) for event in (gates[0], gates[-1]))
        parts.append(f"{last:,.0f} of {first:,.0f} {kind}")
    return f"Left at step {gates[-1]['step']:,}: {', '.join(parts)}."


def _sparsity_caption(last: Event) -> str:
    return (
        f"At step {last['step']:,}: sparsity {percent(last.get('sparsity'))}, "
        f"target {percent(last.get('sparsity_target'))}."
    )


def _prunes(prunes: list[Event]) -> Safe:
    numbers = table(
        ["prune", "share", "target", "met", "channels", "heads by layer", "neurons by layer"],
        [row for event in prunes for row in _rows(event)],
        "Units after each prune; share: of the teacher's prunable parameters",
    )
    return element("div", numbers, class_="lists")


def _rows(event: Event) -> list[list[str]]:
    reached = event.get("met")
    shared = [percent(event.get("kept")), percent(event.get("keep")), "yes" if reached else "no"]
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
