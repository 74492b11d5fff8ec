"""``tinyclip-edge config``: the meaning of each configuration key."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyclip_edge.cli.options import JsonFlag, print_json


def config(
    key: Annotated[
        str | None,
        typer.Argument(help="A key such as optim.lr, or a section.", show_default="all keys"),
    ] = None,
    export: Annotated[
        bool,
        typer.Option("--export", help=("Explain the keys of an export target instead of a run.")),
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Explain configuration keys: type, default, and meaning."""
    from tinyclip_edge.config.reference import REQUIRED, matching_keys

    keys = matching_keys(key, "export" if export else "run")
    if json_output:
        print_json({"keys": [entry.as_dict() for entry in keys]})
        return
    for entry in keys:
        default = REQUIRED if entry.default == REQUIRED else f"default {entry.default}"
        typer.echo(f"{entry.key}: {entry.type}, {default}")
        typer.echo(f"    {entry.description}")
