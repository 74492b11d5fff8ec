"""``tinyclip-edge bench``: compare size and speed of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.device_options import DeviceOptions
from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import MODEL_HELP, JsonFlag, print_json, print_tables, say_result
from tinyclip_edge.errors import ConfigError


@with_option_groups
def bench(
    models: Annotated[list[str], typer.Argument(help=MODEL_HELP)],
    threads: Annotated[
        int, typer.Option(metavar="N", min=1, help="CPU threads of every model.")
    ] = 1,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images or texts per call.")] = 1,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=3, help="Timed rounds after the warm-up.")
    ] = 50,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Write a bundle's figures and golden check as a record of this device, which "
            "names no user, host or folder.",
            metavar="FILE",
            show_default="none",
        ),
    ] = None,
    json_output: JsonFlag = False,
    *,
    device: DeviceOptions,
) -> None:
    """Measure size, cold start, latency and memory."""
    from tinyclip_edge.evaluation import bench_models
    from tinyclip_edge.evaluation.open import is_bundle

    if record is not None:
        if len(models) != 1 or not is_bundle(models[0]):
            raise ConfigError("--record takes exactly one model, a bundle folder")
        if batch != 1:
            raise ConfigError("--record measures single calls; leave out --batch")
    arguments = device.arguments()
    report = bench_models(models, threads=threads, batch=batch, rounds=rounds, **arguments)
    if record is not None:
        from tinyclip_edge.evaluation.record import record_of, write_record

        options = arguments["device_options"]
        write_record(record, record_of(models[0], report, device_options=options))
        say_result(f"record: {record}, for benchmarks/devices of the project")
    if json_output:
        print_json(report.as_dict())
        return
    print_tables(report.tables())
