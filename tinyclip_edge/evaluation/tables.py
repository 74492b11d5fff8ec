"""Figures in the reports' tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.units import three_digits

if TYPE_CHECKING:
    from rich.text import Text


def percent(share: float) -> str:
    """Format a share in per cent."""
    return f"{100 * share:.1f}"


def with_error(share: float, error: float) -> Text:
    """Format a share and its standard error in per cent."""
    return dimmed_end(f"{100 * share:.1f}", f"± {100 * error:.1f}")


def dimmed_end(figure: str, end: str) -> Text:
    """Join a figure and a less important addition, dimmed."""
    from rich.text import Text

    return Text.assemble(f"{figure} ", (end, "dim"))


def millions(parameters: int) -> str:
    """Format a number of parameters in millions, with three digits or more."""
    return f"{three_digits(parameters / 1e6)} M"


def megabytes(count: float) -> str:
    """Format a number of bytes in units of 10^6."""
    return f"{count / 1e6:.1f}" if count < 1e8 else f"{count / 1e6:,.0f}"
