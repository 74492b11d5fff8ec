"""Reports in a notebook: their tables as HTML."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100  # characters of a line
_FORMAT = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


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

        console = Console(record=True, file=io.StringIO(), width=WIDTH)
        for table in self.tables():
            console.print(table)
        return console.export_html(inline_styles=True, code_format=_FORMAT)
