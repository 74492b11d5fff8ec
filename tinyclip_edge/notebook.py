"""Tables of reports, which notebooks show as HTML."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100  # characters of a line
_FORMAT = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


def report_table(title: str, columns: Sequence[str], caption: Sequence[str] = ()) -> Table:
    """Return an empty table with a column of names and right-aligned columns of figures.

    In a narrow terminal, names wrap; figures never do.
    """
    from rich import box

    from tinyclip_edge.plain_table import PlainTable

    table = PlainTable(
        title=title,
        caption="\n".join(caption),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        header_style="bold",
    )
    table.add_column("", overflow="fold", style="cyan")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


class NotebookReport:
    """Base of reports with a ``table``, or several ``tables``, which notebooks show."""

    __slots__ = ()

    def table(self) -> Table:
        """Return the only table of a report that has one."""
        raise NotImplementedError

    def tables(self) -> Sequence[Table]:
        """Return the tables to print."""
        return [self.table()]

    def _repr_html_(self) -> str:
        from rich.console import Console

        # In a notebook, rich would display these tables itself, and the notebook once more.
        console = Console(record=True, file=io.StringIO(), width=WIDTH, force_jupyter=False)
        for table in self.tables():
            console.print(table)
        return console.export_html(inline_styles=True, code_format=_FORMAT)
