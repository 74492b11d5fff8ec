"""Reports in a notebook: their tables as HTML."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100  # characters of a line
_FORMAT = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


class HasTables(Protocol):
    """A report that can be printed."""

    def tables(self) -> Sequence[Table]:
        """Return the tables to print."""
        ...


def report_html(report: HasTables) -> str:
    """Return the tables of a report as HTML, in the form that they have in a terminal."""
    from rich.console import Console

    console = Console(record=True, file=io.StringIO(), width=WIDTH)
    for table in report.tables():
        console.print(table)
    return console.export_html(inline_styles=True, code_format=_FORMAT)


class NotebookReport:
    """Base of reports with ``tables``, which notebooks show."""

    __slots__ = ()

    def tables(self) -> Sequence[Table]:
        """Return the tables to print."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return report_html(self)
