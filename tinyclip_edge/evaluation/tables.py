"""Building blocks of the reports' rich tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def report_table(title: str, columns: Sequence[str], caption: Sequence[str]) -> Table:
    """Return an empty table with a column of names and right-aligned columns of figures."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(title) or None,
        caption=escape("\n".join(caption)),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        header_style="bold",
    )
    table.add_column("", no_wrap=True, style="cyan")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def percent(share: float) -> str:
    """Format a share in per cent."""
    return f"{100 * share:.1f}"


def with_error(share: float, error: float) -> str:
    """Format a share and its standard error in per cent."""
    return f"{100 * share:.1f} [dim]± {100 * error:.1f}[/]"


def millions(parameters: int) -> str:
    """Format a number of parameters in millions."""
    return f"{parameters / 1e6:.2f} M"


def with_unit(number: int, word: str) -> str:
    """Format a number with its unit, in the singular or plural."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
