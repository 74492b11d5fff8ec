"""``tinyclip-edge select``: the pairs of a large set that match a target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.options import ClusterOption, JsonFlag, print_json, say
from tinyclip_edge.cli.verbosity import VERBOSITY
from tinyclip_edge.units import counted, duration


def select(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="The set: webdataset shards (paths, 'data/{000..099}.tar', URLs), tables or image "
            "folders with captions."
        ),
    ],
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Pairs to choose.")],
    out: Annotated[
        Path, typer.Option(help="The index, NAME.selection, for data.train.", metavar="FILE")
    ],
    target_texts: Annotated[
        Path | None,
        typer.Option(
            help="Texts of the target, one per line; captions are weighted by their n-grams.",
            metavar="FILE",
            show_default="none",
        ),
    ] = None,
    target_images: Annotated[
        Path | None,
        typer.Option(
            help="Images of the target; the set's are weighted by the teacher's features.",
            metavar="FOLDER",
            show_default="none",
        ),
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="Model whose features are compared.", metavar="MODEL")
    ] = "starter-teacher",
    feature_cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the teacher's features of the set; missing ones are computed.",
            metavar="FOLDER",
            show_default="in --work",
        ),
    ] = None,
    words: Annotated[
        int, typer.Option(metavar="N", min=1, max=5, help="Words of the longest n-gram.")
    ] = 2,
    drop_duplicates: Annotated[
        float | None,
        typer.Option(
            help="Choose only one of images with at least this cosine, such as 0.95.",
            metavar="COSINE",
            show_default="all may be chosen",
        ),
    ] = None,
    write_shards: Annotated[
        Path | None,
        typer.Option(
            help="Copy the chosen pairs into new shards as well.",
            metavar="FOLDER",
            show_default="no copies",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the draw.")] = 0,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes on this machine that read shards.")
    ] = 1,
    cluster: ClusterOption = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which to keep what is read of the set, for further selections.",
            metavar="FOLDER",
            show_default="OUT.work, removed at the end",
        ),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Choose the pairs of a large set that match a target.

    Each pair is drawn in proportion to how much more likely it is in the target than in the set.
    """
    from tinyclip_edge.selection.selecting import select as select_pairs

    report = select_pairs(
        sources,
        out,
        count=count,
        target_texts=target_texts,
        target_images=target_images,
        teacher=teacher,
        feature_cache=feature_cache,
        words=words,
        drop_duplicates=drop_duplicates,
        write_shards=write_shards,
        seed=seed,
        workers=workers,
        cluster=cluster,
        work=work,
        progress=not (json_output or VERBOSITY.quiet),
    )
    if json_output:
        print_json(report.as_dict())
        return
    for note in report.notes:
        say(note)
    passed = f", {report.near_duplicates:,} near-duplicates left out" * bool(report.near_duplicates)
    copies = "" if report.shards is None else f", copied into {counted(report.shards, 'shard')}"
    typer.echo(
        f"{report.out}: {report.pairs:,} of {counted(report.of, 'pair')}{passed}{copies}, in "
        f"{duration(report.seconds)}; mean log weight {report.log_weight:.1f}, of all pairs "
        f"{report.log_weight_of_all:.1f}"
    )
