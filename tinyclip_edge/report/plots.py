"""PNG plots of a run with masks or stages, drawn from its events alone."""

from __future__ import annotations

from pathlib import Path

from tinyclip_edge.report.drawing import (
    STYLE,
    draw_histograms,
    draw_losses,
    draw_sparsity,
    draw_units,
)


def write_plots(events: Path, folder: Path) -> list[Path]:
    """Write the plots for which there are events to ``folder``; return the files."""
    # Not pyplot: it keeps figures and a display backend for the whole process.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from tinyclip_edge.report.events import read_lines

    logged = read_lines(events).events
    gates = [event for event in logged if event["kind"] == "gates"]
    steps = [event for event in logged if event["kind"] == "step"]
    masked = [event for event in steps if "sparsity" in event]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, size, draw, data in (
        ("loss.png", (7.0, 4.2), draw_losses, steps),
        ("sparsity.png", (7.0, 4.2), draw_sparsity, masked),
        ("units.png", (9.0, 6.4), draw_units, gates),
        ("gates.png", (9.0, 4.2), draw_histograms, gates),
    ):
        if not data:
            continue
        with rc_context(dict(STYLE)):
            figure = Figure(figsize=size, dpi=120)
            FigureCanvasAgg(figure)
            draw(figure, data)
            figure.savefig(folder / name, facecolor="white")
        paths.append(folder / name)
    return paths
