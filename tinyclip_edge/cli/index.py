"""``tinyclip-edge index`` and ``watch``: the index of folders, kept up to date."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.device_options import DeviceOptions
from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import (
    DEFAULT_INDEX,
    BundleOption,
    JsonFlag,
    PrecisionOption,
    ThreadsOption,
    open_bundle,
    print_json,
    recall_line,
    say,
)
from tinyclip_edge.cli.verbosity import VERBOSITY
from tinyclip_edge.errors import BundleError, ConfigError, TinyClipError
from tinyclip_edge.units import counted, duration

if TYPE_CHECKING:
    from tinyclip_edge.collection.files import PictureFile
    from tinyclip_edge.collection.index_report import IndexReport
    from tinyclip_edge.runtime.edge import EdgeCLIP

LISTED = 10  # skipped files

FoldersArgument = Annotated[
    list[Path], typer.Argument(help="Folders of pictures, with their subfolders.")
]
IntoOption = Annotated[
    Path,
    typer.Option(
        "--into",
        help="The index: a new or an existing file.",
        metavar="INDEX",
        show_default=str(DEFAULT_INDEX),
    ),
]

DecodeOption = Annotated[
    str | None,
    typer.Option(
        help="fast: large pictures are read at a fraction of their size; exact: as open_clip reads "
        "them, bit for bit.",
        metavar="MODE",
        show_default="fast, or that of an existing index",
    ),
]
EveryOption = Annotated[
    float,
    typer.Option(
        min=0.1, help="Seconds between the frames of a video; needs the extra [video].",
        metavar="SECONDS",
    ),
]  # fmt: skip


@with_option_groups
def index(
    folders: FoldersArgument,
    into: IntoOption = DEFAULT_INDEX,
    every: EveryOption = 10.0,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    decode: DecodeOption = None,
    threads: ThreadsOption = None,
    approximate: Annotated[
        bool | None,
        typer.Option(
            "--approximate/--exact",
            help="Build a graph for fast search of 100,000 or more pictures, or remove it; needs "
            "the extra [search].",
            show_default="the index as it is",
        ),
    ] = None,
    json_output: JsonFlag = False,
    *,
    device: DeviceOptions,
) -> None:
    """Index the pictures and videos of folders for search.

    When run again, only what is new or has changed is embedded.
    """
    from tinyclip_edge.collection.approximation import update_graph
    from tinyclip_edge.collection.folder_index import index_folders

    if approximate:
        from tinyclip_edge.runtime.graph import require_usearch

        require_usearch()
    clip = _open_model(into, bundle, precision, threads, decode, device)
    progress = not (json_output or VERBOSITY.quiet)
    report = index_folders(clip, folders, into, every=every, progress=progress)
    facts = update_graph(clip, into, approximate, progress=progress)
    if json_output:
        print_json({**report.as_dict(), "graph": None if facts is None else asdict(facts)})
        return
    _print(report)
    if facts is not None:
        say(recall_line(facts))


@with_option_groups
def watch(
    folders: FoldersArgument,
    into: IntoOption = DEFAULT_INDEX,
    interval: Annotated[
        float, typer.Option(metavar="X", min=0.1, help="Seconds between scans of the folders.")
    ] = 5.0,
    every: EveryOption = 10.0,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    decode: DecodeOption = None,
    threads: ThreadsOption = None,
    *,
    device: DeviceOptions,
) -> None:
    """Keep an index up to date while pictures come and go. Ctrl-C ends it."""
    from tinyclip_edge.collection.files import absolute_folders, scan_folders
    from tinyclip_edge.collection.folder_index import index_folders

    clip = _open_model(into, bundle, precision, threads, decode, device)
    roots = absolute_folders(folders)
    indexed: list[PictureFile] | None = None
    last = line = ""
    while True:
        try:
            files = scan_folders(roots, lambda path, error: None)
            if files != indexed:
                report = index_folders(clip, roots, into, every=every)
                indexed, line = files, _line(report) if report.differs else last
        except BundleError:
            raise
        except TinyClipError as error:  # a folder that is gone may come back
            indexed, line = None, str(error)
        if line != last:
            say(line)
        last = line
        time.sleep(interval)


def _open_model(
    into: Path,
    bundle: Path | None,
    precision: str | None,
    threads: int | None,
    decode: str | None,
    device: DeviceOptions,
) -> EdgeCLIP:
    from tinyclip_edge.runtime.decode_modes import FAST, decode_mode
    from tinyclip_edge.runtime.index import ImageIndex
    from tinyclip_edge.runtime.index_file import index_path

    path = index_path(into)
    existing = ImageIndex.load(path, mmap=True) if path.exists() else None
    if decode is not None:
        decode_mode(decode)
        if existing is not None and decode != existing.decode:
            raise ConfigError(
                f"{path} was made with --decode {existing.decode}; leave out --decode, or index "
                "into another file"
            )
    elif existing is None:
        decode = FAST
    return open_bundle(
        bundle,
        precision=precision,
        threads=threads,
        decode=decode,
        index=existing,
        device=device,
    )


def _line(report: IndexReport) -> str:
    changes = [
        f"{count:,} {name}"
        for name in ("new", "changed", "moved", "deleted")
        if (count := getattr(report, name))
    ]
    pictures, news = counted(report.pictures, "picture"), ", ".join(changes) or "nothing new"
    frames = f" and {counted(report.frames, 'frame')} of videos" if report.frames else ""
    return f"{report.index}: {pictures}{frames} ({news}) in {duration(report.seconds)}"


def _print(report: IndexReport) -> None:
    for entry in report.skipped[:LISTED]:
        say(f"skipped: {entry.reason}")
    if len(report.skipped) > LISTED:
        say(f"skipped: {len(report.skipped) - LISTED:,} more; --json lists all")
    if report.unread_videos:
        say(
            f"{report.unread_videos:,} videos are left out; to index their frames, run: pip "
            "install 'tinyclip-edge[video]'"
        )
    typer.echo(_line(report))
