"""``tinyclip-edge duplicates``: pictures of an index that are the same, or nearly."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyclip_edge.cli.options import DEFAULT_INDEX, InOption, JsonFlag, print_json, say
from tinyclip_edge.cli.verbosity import VERBOSITY
from tinyclip_edge.errors import one_line
from tinyclip_edge.units import counted


def duplicates(
    index: InOption = DEFAULT_INDEX,
    min_score: Annotated[
        float, typer.Option(metavar="X", min=0.0, max=1.0, help="Lowest cosine of two duplicates.")
    ] = 0.98,
    json_output: JsonFlag = False,
) -> None:
    """List groups of pictures that are the same, or nearly."""
    from tinyclip_edge.collection.duplicates import duplicate_groups
    from tinyclip_edge.runtime.index import ImageIndex
    from tinyclip_edge.runtime.progress import reported

    pictures = ImageIndex.load(index, mmap=True)
    with reported(not (json_output or VERBOSITY.quiet), "compared") as report:
        groups = duplicate_groups(pictures, min_score, progress=report)
    if json_output:
        print_json({"index": str(index), "min_score": min_score, "groups": groups})
        return
    for number, group in enumerate(groups):
        typer.echo(("\n" if number else "") + "\n".join(map(one_line, group)))
    say(f"{counted(len(groups), 'group')} among {counted(len(pictures), 'picture')}")
