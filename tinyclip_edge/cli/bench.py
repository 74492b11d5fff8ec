"""``tinyclip-edge bench``: compare size and speed of models."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyclip_edge.cli.options import MODEL_HELP, JsonFlag, print_json, print_tables


def bench(
    models: Annotated[list[str], typer.Argument(help=MODEL_HELP)],
    threads: Annotated[
        int, typer.Option(metavar="N", min=1, help="CPU threads of every model.")
    ] = 1,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images or texts per call.")] = 1,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=3, help="Timed rounds after the warm-up.")
    ] = 50,
    json_output: JsonFlag = False,
) -> None:
    """Measure size, cold start, latency and memory."""
    from tinyclip_edge.evaluation import bench_models

    report = bench_models(models, threads=threads, batch=batch, rounds=rounds)
    if json_output:
        print_json(report.as_dict())
        return
    print_tables(report.tables())
