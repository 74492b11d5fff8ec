"""The result of a search as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.units import three_digits

if TYPE_CHECKING:
    from rich.table import Table

PICTURE = "sensitivity.png"
_NAMED_LAYERS = 5  # layers that the caption names
_INCHES = (9.0, 3.6)


def search_table(result: Mapping[str, Any]) -> Table:
    """Return the curve of a manifest's ``sensitivity``, one row per point."""
    from rich.box import SIMPLE_HEAD

    from tinyclip_edge.plain_table import PlainTable

    most_sensitive = ", ".join(
        f"{row['tower']} {row['node']}" for row in result["layers"][:_NAMED_LAYERS]
    )
    table = PlainTable(
        title=f"{result['precision']}: layers in float, on {result['pairs']} calibration pairs",
        caption="chosen: not worse on the verification pairs either; refused: best on these pairs, "
        f"worse on those; most sensitive layers: {most_sensitive}; ms: one image and one text",
        box=SIMPLE_HEAD,
        padding=(0, 0),
    )
    table.add_column("float\nlayers", justify="right")
    for column in ("smoothing", "MB", "ms", "lost,\npoints", "same of\nten, %", "KL"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in result["pareto"]:
        table.add_row(
            str(row["kept_float"]),
            smoothing(row["smooth"]),
            three_digits(row["bytes"] / 1e6),
            three_digits(row["ms"]),
            f"{row['drop']:+.2f}±{row['stderr']:.2f}",
            f"{row['overlap']:.1f}",
            f"{row['kl']:.5f}",
            "chosen" if row["chosen"] else "refused" if row["proposed"] else "",
        )
    return table


def smoothing(strengths: Mapping[str, float]) -> str:
    """Format the strengths of both towers."""
    if not any(strengths.values()):
        return "none"
    return " ".join(f"{tower} {value:g}" for tower, value in strengths.items())


def plot_search(result: Mapping[str, Any], path: Path) -> None:
    """Plot lost recall over size and over time as a PNG."""
    # Not pyplot: it keeps figures and a display backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(drawing)
    size_axes, time_axes = drawing.subplots(1, 2, sharey=True)
    rows = result["pareto"]
    drops, errors = ([row[key] for row in rows] for key in ("drop", "stderr"))
    for axes, key, unit, label in ((size_axes, "bytes", 1e-6, "MB"), (time_axes, "ms", 1.0, "ms")):
        values = [row[key] * unit for row in rows]
        axes.errorbar(values, drops, errors, fmt="o", color="#3465a4", ecolor="#b8c7e0")
        for row, value in zip(rows, values, strict=True):
            name = "plain" if row is rows[0] else str(row["kept_float"])
            axes.annotate(name, (value, row["drop"]), xytext=(5, 5), textcoords="offset points")
            if row["chosen"]:
                axes.plot(value, row["drop"], "o", ms=13, mfc="none", mec="#cc0000")
        axes.set_xlabel(f"{label}, both towers")
        axes.grid(alpha=0.3)
    size_axes.set_ylabel("recall@1 lost, points")
    drawing.suptitle(f"{result['precision']}: numbers are layers in float; red: chosen")
    drawing.savefig(path, dpi=110, metadata={"Software": None})
