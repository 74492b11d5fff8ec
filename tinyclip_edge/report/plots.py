"""PNG plots of a run with masks or stages, drawn from its events alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tinyclip_edge.report.drawing import (
    draw_histograms,
    draw_losses,
    draw_sparsity,
    draw_units,
)
from tinyclip_edge.report.figures import write_png


def write_plots(events: Path, folder: Path) -> list[Path]:
    """Write the plots for which there are events to ``folder``; return the files."""
    from tinyclip_edge.report.events import read_lines

    logged = read_lines(events).events
    gates = [event for event in logged if event["kind"] == "gates"]
    steps = [event for event in logged if event["kind"] == "step"]
    masked = [event for event in steps if "sparsity" in event]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, size, draw, data in (
        ("loss.png", (7.0, 4.2), partial(draw_losses, steps=steps), steps),
        ("sparsity.png", (7.0, 4.2), partial(draw_sparsity, steps=masked), masked),
        ("units.png", (9.0, 6.4), partial(draw_units, gates=gates), gates),
        ("gates.png", (9.0, 4.2), partial(draw_histograms, gates=gates), gates),
    ):
        if data:
            write_png(folder / name, draw, size)
            paths.append(folder / name)
    return paths
