"""A finished ``tailor`` run: agreement against megabytes and milliseconds of all candidates."""

from __future__ import annotations

from html import escape

from tinyclip_demo.view.parts import figure_table
from tinyclip_edge.tailoring.page import HEAD, budget_figures, budget_line, rows
from tinyclip_edge.tailoring.report import TailorReport


def budget(report: TailorReport) -> str:
    """Return both plots, and a row for each model with its letter, name and shape."""
    lines = []
    for letter, name, about, *cells in rows(report):
        best = " ★" if name == report.winner else ""
        head = f"<span>{escape(f'{letter} · {name}{best}')}</span><small>{escape(about)}</small>"
        lines.append(("", head, [escape(cell) for cell in cells]))
    held_out = f"Shares refer to {report.held_out:,} held-out pictures; ★ is the winner"
    return (
        f'<section class="tc-result"><h3>Tailored: {escape(report.work.name)}</h3>'
        '<div class="tc-budget">'
        f"{''.join(budget_figures(report))}</div>"
        f"{figure_table('All candidates', ('Model', *HEAD[3:]), lines)}"
        f'<p class="tc-legend"><span>{escape(budget_line(report))}</span><span>{held_out}</span>'
        f"<span>Report: {escape(str(report.page))}</span></p></section>"
    )
