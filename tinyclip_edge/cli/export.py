"""``tinyclip-edge export``: a student as a verified edge bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.options import CHECKPOINT_HELP, JsonFlag, free_folder, print_json, say

if TYPE_CHECKING:
    from tinyclip_export import ExportReport


def export(
    checkpoint: Annotated[
        str | None, typer.Argument(help=CHECKPOINT_HELP, show_default="the newest run")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Add dynamically quantized towers.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Bundle folder.", show_default="bundles/<name>")
    ] = None,
    data: Annotated[
        str, typer.Option(help="Pairs for the verification: starter:val or a shard pattern.")
    ] = "starter:val",
    limit: Annotated[int, typer.Option(min=2, help="At most so many pairs.")] = 1000,
    max_drop: Annotated[
        float, typer.Option(min=0.0, help="Points of recall@1 that int8 may lose.")
    ] = 0.5,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a bundle that stands at --out.")
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Write a model as verified ONNX towers, fp32 and int8."""
    report = run_export(
        checkpoint, int8=int8, out=out, data=data, limit=limit, max_drop=max_drop, force=force
    )
    if json_output:
        print_json(report.as_dict())
        return
    from rich.console import Console

    Console().print(report.table())
    say(f"bundle: {report.folder}")
    say(f"next: tinyclip-edge demo --student {report.folder}")


def run_export(
    checkpoint: str | None,
    *,
    int8: bool,
    out: Path | None,
    data: str = "starter:val",
    limit: int = 1000,
    max_drop: float = 0.5,
    force: bool = False,
) -> ExportReport:
    """Load, export and verify; quickstart shares it."""
    from tinyclip_edge.evaluate import evaluation_set
    from tinyclip_edge.models import load_clip, newest_run
    from tinyclip_export import export_bundle

    source = checkpoint if checkpoint is not None else str(newest_run())
    clip = load_clip(source)
    folder = out if out is not None else free_folder(Path("bundles"), clip.name.replace("/", "-"))
    pairs = evaluation_set(data, limit=limit)
    say(f"exporting {source} to {folder}, verified on {len(pairs.texts)} pairs of {data}")
    for note in pairs.notes:
        say(note)
    return export_bundle(
        clip,
        folder,
        precisions=("fp32", "int8") if int8 else ("fp32",),
        pairs=(pairs.images, pairs.texts),
        max_drop=max_drop,
        force=force,
    )
