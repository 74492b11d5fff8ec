"""``tinyclip-edge report``: the results of runs on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.options import JsonFlag, print_json, say, say_result
from tinyclip_edge.errors import ConfigError


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are overlaid.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="HTML file.",
            show_default="RUN/report/report.html; several: overlay.html beside the first's",
        ),
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=50,
            help=(
                "Number of example queries, with the results of the run's models; only for a "
                "single run; 0 omits them."
            ),
        ),
    ] = 6,
    bundles: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Bundle, or folder of bundles, to include.",
            show_default="bundles in the working directory and beside the run's folder",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET...",
            help="Evaluation sets by which several runs are ranked, as compare does.",
            show_default="none",
        ),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Write one or several runs as a self-contained HTML page."""
    from tinyclip_edge.report import write_report

    if data and len(runs) < 2:
        raise ConfigError("--data ranks several runs; give two or more, or use eval")
    standings = None
    if data:
        from tinyclip_edge.api.models import compare

        standings = compare(runs, data=data).picture()
    report_file = write_report(
        runs, out, pictures=pictures, bundles=bundles or (), standings=standings, notify=say
    )
    if json_output:
        print_json(report_file.as_dict())
        return
    say_result(f"report: {report_file.path}")
