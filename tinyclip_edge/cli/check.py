"""``tinyclip-edge check``: verify a bundle's results on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.options import JsonFlag, ThreadsOption, print_json
from tinyclip_edge.errors import VerificationError

if TYPE_CHECKING:
    from rich.table import Table

    from tinyclip_edge.runtime.golden import Replay


def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    precision: Annotated[
        str | None, typer.Option(help="One precision.", show_default="all of the bundle")
    ] = None,
    threads: ThreadsOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Check a bundle's files and replay its golden vectors on this machine."""
    from tinyclip_edge.runtime.bundle import Manifest
    from tinyclip_edge.runtime.cpu import int8_saturates
    from tinyclip_edge.runtime.golden import replay

    manifest = Manifest.read(bundle)
    manifest.verify_files(bundle)
    precisions = [precision] if precision is not None else manifest.precisions()
    replays = [replay(bundle, name, threads=threads) for name in precisions]
    failures = [f"{result.precision} {line}" for result in replays for line in result.failures]
    if json_output:
        print_json(
            {
                "bundle": str(bundle),
                "name": manifest.name,
                "passed": not failures,
                "files": len(manifest.files),
                "int8_saturates": int8_saturates(),
                "precisions": [result.as_dict() for result in replays],
            }
        )
    else:
        from rich.console import Console

        Console().print(_table(manifest.name, replays))
    if failures:
        raise VerificationError(f"bundle {bundle} fails on this machine: {'; '.join(failures)}")


def _table(name: str, replays: list[Replay]) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{name}: golden vectors on this machine",
        caption="cosine: lowest, against the recorded golden vectors; ms: median of one input",
    )
    table.add_column("precision")
    for column in ("cosine image", "text", "image ms", "text ms"):
        table.add_column(column, justify="right")
    for column in ("token ids", "pixels", "verdict"):
        table.add_column(column)
    for result in replays:
        table.add_row(
            result.precision,
            f"{result.image_cosine:.5f}",
            f"{result.text_cosine:.5f}",
            f"{result.image_ms:.2f}",
            f"{result.text_ms:.2f}",
            "equal" if result.same_ids else "differ",
            "equal" if result.same_pixels else "differ",
            "FAILED" if result.failures else "ok",
        )
    return table
