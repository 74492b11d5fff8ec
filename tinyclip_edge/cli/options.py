"""Options and helpers shared by several commands."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyclip_edge.cli.device_options import ON_CPU, DeviceOptions
from tinyclip_edge.cli.verbosity import VERBOSITY
from tinyclip_edge.errors import ConfigError, one_line
from tinyclip_edge.launcher import in_a_group
from tinyclip_edge.paths import is_folder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tinyclip_edge.runtime.edge import EdgeCLIP
    from tinyclip_edge.runtime.graph import GraphFacts
    from tinyclip_edge.runtime.index import ImageIndex

_log = logging.getLogger(__name__)

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]
DeviceOption = Annotated[
    str, typer.Option(help="Device of PyTorch models: auto, cpu or cuda.", metavar="DEVICE")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="CPU threads, for both PyTorch and onnxruntime.",
        show_default="their own choice",
    ),
]
BundleOption = Annotated[
    Path | None,
    typer.Option(help="A bundle folder.", show_default="the newest folder in bundles/"),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="One of the bundle's precisions.", show_default="the bundle's own"),
]
DecodeOption = Annotated[
    str,
    typer.Option(
        help="exact: pictures are read as open_clip reads them, bit for bit; fast: large ones at a "
        "fraction of their size.",
        metavar="MODE",
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(help="Prompt with {} for the label; repeat for an ensemble.", show_default="{}"),
]
CLUSTER_HELP = (
    "Use the machines of a Dask cluster instead, such as tcp://10.0.0.1:8786; they must see the "
    "same folders."
)
ClusterOption = Annotated[
    str | None,
    typer.Option(
        help=CLUSTER_HELP,
        metavar="ADDRESS",
        show_default="this machine",
    ),
]
DEFAULT_INDEX = Path("pictures.npz")
InOption = Annotated[
    Path,
    typer.Option(
        "--in",
        help="An index made by `tinyclip-edge index`.",
        metavar="INDEX",
        show_default=str(DEFAULT_INDEX),
    ),
]
CHECKPOINT_HELP = (
    "An open_clip name (ViT-B-32/laion2b_s34b_b79k), hf-hub:owner/name, a run, an open_clip or "
    "CLIPModel folder, or starter-teacher."
)
MODEL_HELP = CHECKPOINT_HELP.replace(", or ", ", a bundle folder, or ")


def print_json(data: dict[str, Any]) -> None:
    """Write one JSON object to stdout."""
    sys.stdout.write(json.dumps(data, indent=2, sort_keys=False) + "\n")


def open_bundle(
    bundle: Path | None,
    *,
    precision: str | None = None,
    threads: int | None = None,
    decode: str | None = None,
    index: ImageIndex | None = None,
    device: DeviceOptions = ON_CPU,
) -> EdgeCLIP:
    """Open a bundle; for None, the one that made an index, else the newest. Raises BundleError.

    Unless others are named, the precision and decode mode of the index are used, on any device: all
    devices must reproduce the bundle's recorded results, so that one index can hold results of
    several. Raises DeviceError for a device that is missing, or whose results differ.
    """
    from tinyclip_edge.models.runs import newest_bundle
    from tinyclip_edge.runtime.decode_modes import EXACT
    from tinyclip_edge.runtime.edge import EdgeCLIP

    if index is not None:
        _log.info("index: %s", index)
        if bundle is None and index.bundle is not None and is_folder(Path(index.bundle)):
            bundle = Path(index.bundle)
            _log.info("bundle %s: it made the index", bundle)
        precision = precision or index.model_hash.rpartition("-")[2]
        decode = decode or index.decode
    if bundle is None:
        bundle = newest_bundle()
        _log.info("bundle %s: the newest one", bundle)
    clip = EdgeCLIP.load(
        bundle,
        precision=precision,
        threads=threads,
        decode=decode or EXACT,
        **device.arguments(),
    )
    for tower, place in clip.placement.items():
        say(f"{tower} tower in {clip.precision}: nodes {place}")
    return clip


def say(text: str) -> None:
    """Write a line of progress to stderr, so that stdout contains only results.

    With ``--quiet``, write nothing.
    """
    if not VERBOSITY.quiet:
        say_result(text)


def say_result(text: str) -> None:
    """Write a line to stderr about what the command has made, or where it serves."""
    sys.stderr.write(one_line(text) + "\n")
    sys.stderr.flush()


def recall_line(facts: GraphFacts) -> str:
    """Return a line about the recall of an approximate search."""
    return (
        f"approximate search: it finds {100 * facts.recall:.1f} % of the {facts.k} nearest "
        f"pictures that exact search finds ({facts.queries:,} queries)"
    )


def progress_console() -> Console:
    """Return the console of progress bars, which writes nothing with ``--quiet``."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=VERBOSITY.quiet)


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables to stdout, their titles and notes as wide as the terminal."""
    from rich.console import Console

    console = Console()
    for number, table in enumerate(tables):
        if number:
            console.print()
        bare = copy(table)  # rich would wrap both to the width of the table
        bare.title = bare.caption = None
        for part, style in (
            (table.title, "table.title"), (bare, None), (table.caption, "table.caption")
        ):  # fmt: skip
            if part is not None:
                console.print(part, style=style)


def refuse_launcher(command: str) -> None:
    """Raise ConfigError in one of several processes started by torchrun or accelerate."""
    if in_a_group():
        raise ConfigError(f"{command} runs in one process; start it without a launcher")


def split_config_args(args: list[str] | None, default: str) -> tuple[str, list[str]]:
    """Split ``[CONFIG] key=value …`` into the configuration's name and the overrides."""
    words = list(args or [])
    if words and ("=" not in words[0] or Path(words[0]).is_file()):
        return words[0], words[1:]
    return default, words
