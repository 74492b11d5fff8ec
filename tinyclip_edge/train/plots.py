"""Pictures of a run of masks or stages, drawn from its events alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.train.observe import read_events

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Event = dict[str, Any]
LOSSES = ("loss", "affinity", "affinity_i2t", "affinity_t2i", "kl", "teacher_entropy",
          "contrastive", "feature", "sparsity_price")  # fmt: skip
TOWERS = ("image", "text")


def write_plots(events: Path, folder: Path) -> list[Path]:
    """Write what the events can show as PNG into ``folder``; return the files."""
    # Not pyplot: it keeps figures and a display backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seen = read_events(events)
    gates = [event for event in seen if event["kind"] == "gates"]
    steps = [event for event in seen if event["kind"] == "step"]
    masked = [event for event in steps if "sparsity" in event]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, size, draw, data in (
        ("loss.png", (7.0, 4.2), _draw_losses, steps),
        ("sparsity.png", (7.0, 4.2), _draw_sparsity, masked),
        ("units.png", (9.0, 6.4), _draw_units, gates),
        ("gates.png", (9.0, 4.2), _draw_histograms, gates),
    ):
        if not data:
            continue
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, data)
        figure.savefig(folder / name)
        written.append(folder / name)
    return written


def _draw_losses(figure: Figure, steps: Sequence[Event]) -> None:
    axes = figure.subplots()
    for name in LOSSES:
        points = [(e["step"], e[name]) for e in steps if e.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), lw=1.2, label=name.replace("_", " "))
    _mark_stages(axes, steps)
    axes.set(xlabel="step", ylabel="loss term, without its weight", yscale="symlog")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    axes.grid(alpha=0.25)


def _draw_sparsity(figure: Figure, steps: Sequence[Event]) -> None:
    axes = figure.subplots()
    for key, label, style in (
        ("sparsity_target", "target", "--"),
        ("sparsity", "expected from the gates", "-"),
    ):
        points = [(e["step"], 100 * e[key]) for e in steps]
        axes.plot(*zip(*points, strict=True), style, lw=1.4, label=label)
    _mark_stages(axes, steps)
    axes.set(xlabel="step", ylabel="% of the teacher's prunable parameters gone")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)


def _draw_units(figure: Figure, gates: Sequence[Event]) -> None:
    """Heat map a tower and kind of unit: layers upwards, steps to the right."""
    grid = figure.subplots(2, 2)
    for row, tower in zip(grid, TOWERS, strict=True):
        for axes, kind in zip(row, ("heads", "neurons"), strict=True):
            layers = max(len(event[tower][kind]) for event in gates)
            shares = [[event[tower][kind][layer] for event in gates] for layer in range(layers)]
            image = axes.imshow(shares, aspect="auto", origin="lower", cmap="viridis", vmin=0)
            axes.set(title=f"{tower} tower: {kind} left", ylabel="layer")
            axes.set_yticks(range(layers))
            ticks = _spread(len(gates))
            axes.set_xticks(ticks, [str(gates[i]["step"]) for i in ticks])
            axes.set_xlabel("step")
            figure.colorbar(image, ax=axes)


def _draw_histograms(figure: Figure, gates: Sequence[Event]) -> None:
    """How many gates stand at which log-alpha, over time."""
    from matplotlib.colors import LogNorm

    from tinyclip_edge.inherit.gates import CLAMP

    for axes, tower in zip(figure.subplots(1, 2), TOWERS, strict=True):
        columns = [[count + 0.5 for count in event[tower]["log_alpha"]] for event in gates]
        image = axes.imshow(
            list(zip(*columns, strict=True)),
            aspect="auto",
            origin="lower",
            cmap="magma",
            norm=LogNorm(vmin=0.5),
            extent=(-0.5, len(gates) - 0.5, -CLAMP, CLAMP),
        )
        ticks = _spread(len(gates))
        axes.set_xticks(ticks, [str(gates[i]["step"]) for i in ticks])
        axes.set(title=f"{tower} tower: gates", xlabel="step", ylabel="log-alpha")
        figure.colorbar(image, ax=axes, label="gates")


def _mark_stages(axes: Axes, steps: Sequence[Event]) -> None:
    """Draw a line where a stage begins."""
    for before, after in pairwise(steps):
        if before.get("stage") != after.get("stage"):
            axes.axvline(after["step"], color="#64748b", lw=0.8, ls=":")


def _spread(count: int, most: int = 6) -> list[int]:
    """Return at most ``most`` indices from the first to the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
