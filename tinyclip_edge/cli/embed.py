"""``tinyclip-edge embed``: embed collections of any size into parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.device_options import DeviceOptions
from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import (
    CLUSTER_HELP,
    BundleOption,
    DecodeOption,
    JsonFlag,
    PrecisionOption,
    ThreadsOption,
    open_bundle,
    print_json,
    say,
)
from tinyclip_edge.cli.verbosity import VERBOSITY
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.units import counted, duration


@with_option_groups
def embed(
    shards: Annotated[
        list[str],
        typer.Argument(
            help="Webdataset shards (paths, 'data/{000..099}.tar', URLs), tables or image folders."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the parquet files.", metavar="FOLDER")],
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    decode: DecodeOption = "exact",
    dtype: Annotated[
        str,
        typer.Option(metavar="TYPE", help="Number type of the vectors: float16, float32 or int8."),
    ] = "float16",
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes on this machine.")
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            "--dask",
            help=CLUSTER_HELP,
            metavar="ADDRESS",
            show_default="this machine",
        ),
    ] = None,
    threads: ThreadsOption = None,
    json_output: JsonFlag = False,
    *,
    device: DeviceOptions,
) -> None:
    """Embed pictures and captions of shards into parquet files.

    Each shard becomes one file. When run again, shards that already have a file are skipped.
    """
    if dask is not None and workers > 1:
        raise ConfigError("--workers is for this machine; leave it out with --cluster")
    from tinyclip_edge.collection.embedding import embed_shards

    clip = open_bundle(bundle, precision=precision, threads=threads, decode=decode, device=device)
    progress = not (json_output or VERBOSITY.quiet)
    report = embed_shards(
        clip, shards, out, dtype=dtype, workers=workers, dask=dask, progress=progress
    )
    if json_output:
        print_json(report.as_dict())
        return
    for note in report.notes:
        say(note)
    before = f", {report.whole:,} of them embedded before" if report.whole else ""
    rate = f" ({report.embedded / report.seconds:,.0f} pictures/s)" if report.embedded else ""
    pictures, captions = counted(report.pictures, "picture"), counted(report.captions, "caption")
    typer.echo(
        f"{report.out}: {pictures} and {captions} of {counted(report.shards, 'shard')}{before}, "
        f"in {duration(report.seconds)}{rate}"
    )
