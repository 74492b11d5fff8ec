"""``tinyclip-edge models``: the zoo, and what works for which family of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.options import JsonFlag, print_json, print_tables, say
from tinyclip_edge.errors import ConfigError

if TYPE_CHECKING:
    from tinyclip_edge.families.table import FamilyTable


def models(
    families: Annotated[
        bool,
        typer.Option(
            "--families",
            help="Print what works for which family of models (export, inheritance, masks, "
            "smaller vocabularies, reading): the table that this release ships.",
        ),
    ] = False,
    run: Annotated[
        bool,
        typer.Option(
            "--run",
            help="With --families: make the table now, with the libraries installed here, on "
            "small models with random weights. Takes minutes, downloads nothing.",
        ),
    ] = False,
    family: Annotated[
        list[str] | None,
        typer.Option(help="With --run: only this family; repeatable.", metavar="NAME"),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """List students and teachers: sizes, published accuracy."""
    if (run and not families) or (family and not run):
        raise ConfigError("--run requires --families, and --family requires --run")
    if families:
        _print_families(family or [], run=run, json_output=json_output)
        return
    from tinyclip_edge.models import teacher_rows, zoo_rows, zoo_table

    if json_output:
        print_json({"models": zoo_rows(), "teachers": teacher_rows()})
        return
    print_tables([zoo_table()])


def _print_families(names: list[str], *, run: bool, json_output: bool) -> None:
    from tinyclip_edge.families.table import make_table, shipped_table

    table: FamilyTable = make_table(names, notify=say) if run else shipped_table()
    if json_output:
        print_json(table.as_dict())
        return
    from rich.console import Console

    console = Console()
    console.print(table.table())
    for note in table.notes:
        console.print(note, markup=False, emoji=False, highlight=False)
