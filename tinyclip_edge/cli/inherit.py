"""``tinyclip-edge inherit``: only step 0, the inherited weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.distill import ConfigArgs
from tinyclip_edge.cli.options import (
    JsonFlag,
    print_json,
    print_tables,
    say,
    say_result,
    split_config_args,
)


def inherit(
    config: ConfigArgs = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the student and the report.", show_default="runs/<name>-step0"
        ),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Save the untrained student, and report what it inherits."""
    from tinyclip_edge.api.training import inherit as inherit_weights

    name, overrides = split_config_args(config, "starter")
    result = inherit_weights(name, out, overrides=overrides, callback=say)
    if json_output:
        print_json(result.as_dict())
        return
    print_tables(result.tables())
    say(result.report.closing())
    say_result(f"student: {result.student}, report: {result.folder / 'report.json'} and report.txt")
