"""The zoo as rows and as a table; sizes come from the generated registry, so no torch is needed."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from tinyclip_edge.models.names import read_registry

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("image\nM", "text\nM", "text +\ntokens", "\nGMAC", "top-1\n%")


def zoo_rows() -> list[dict[str, Any]]:
    """Return one JSON-ready row per student: sizes, MACs, published accuracy, teacher.

    A recipe of stages has no shape before training: its sizes are the published ones,
    ``rounded``; the token embedding, which masks make narrower, is unknown.
    """
    rows: list[dict[str, Any]] = deepcopy(read_registry()["students"])
    return rows


def teacher_rows() -> list[dict[str, Any]]:
    """Return one JSON-ready row per teacher of the zoo."""
    rows: list[dict[str, Any]] = deepcopy(read_registry()["teachers"])
    return rows


def zoo_table() -> Table:
    """Return the zoo for the terminal, 80 columns wide; accuracies are the published ones."""
    from rich.box import SIMPLE

    from tinyclip_edge.plain_table import PlainTable

    table = PlainTable(
        title="Students, and their teachers below",
        caption="Parameters without BatchNorm statistics. Automatic students are recipes of "
        "stages: rounded, as published. top-1: zero-shot ImageNet, as published.",
        box=SIMPLE,
        show_edge=False,
        padding=0,
    )
    table.add_column("\nname", overflow="fold")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("\ndata", no_wrap=True)
    students, teachers = zoo_rows(), teacher_rows()
    for number, row in enumerate((*students, *teachers), 1):
        table.add_row(row["name"], *_cells(row), end_section=number == len(students))
    return table


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    digits = 0 if row["rounded"] else 2
    text, tokens = row["text_parameters"], row["token_parameters"]
    both = None if tokens is None else text + tokens
    millions = (
        "" if count is None else f"{count / 1e6:.{digits}f}"
        for count in (row["image_parameters"], text, both)
    )
    top1 = row["imagenet_top1"]
    return (
        *millions,
        f"{row['gmacs']:.{1 if row['rounded'] else 2}f}",
        "" if top1 is None else f"{top1:.1f}",
        row["pretrained_on"] or "",
    )
