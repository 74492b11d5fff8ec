"""``tinyclip-edge runs`` and ``clean``: list runs, and clean up after commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.options import JsonFlag, print_json, print_tables, say
from tinyclip_edge.units import size

FOLDERS = (Path("runs"), Path("bundles"))


def runs(
    folder: Annotated[Path, typer.Argument(help="A folder of runs, or one run.")] = FOLDERS[0],
    json_output: JsonFlag = False,
) -> None:
    """List runs: state, best figure, size."""
    from tinyclip_edge.train.run_list import list_runs

    result = list_runs(folder)
    if json_output:
        print_json(result.as_dict())
        return
    if not result.runs:
        say(f"no runs in {folder}")
        return
    print_tables(result.tables())


def clean(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of runs or bundles.", show_default="runs and bundles"),
    ] = None,
    checkpoints: Annotated[
        bool,
        typer.Option(
            "--checkpoints",
            help="Also delete checkpoints of finished runs, which then cannot be extended.",
        ),
    ] = False,
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Also delete the teachers' features, which the next run computes again.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; without it, only show what would be deleted.")
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Delete what killed commands left behind, and on request more."""
    from tinyclip_edge.train.run_list import removable

    items = removable(folders or FOLDERS, checkpoints=checkpoints, features=features)
    if yes:
        for item in items:
            item.remove()
    total = sum(item.bytes for item in items)
    if json_output:
        rows = [{"path": str(i.path), "what": i.what, "bytes": i.bytes} for i in items]
        print_json({"deleted": yes, "bytes": total, "items": rows})
        return
    for item in items:
        typer.echo(f"{size(item.bytes):>8}  {item.path}: {item.what}")
    if not items:
        say("nothing to delete")
    elif yes:
        say(f"deleted {size(total)}")
    else:
        say(f"{size(total)} would be deleted; add --yes")
