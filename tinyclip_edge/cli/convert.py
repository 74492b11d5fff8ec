"""``tinyclip-edge convert``: turn a published checkpoint into a model folder."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.options import JsonFlag, print_json

if TYPE_CHECKING:
    from tinyclip_edge.models import Conversion


class OutputFormat(str, Enum):
    """Formats of the output folder."""

    OPEN_CLIP = "open_clip"
    HUGGINGFACE = "huggingface"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint file (.pt, .bin, .safetensors), a Hugging Face or open_clip folder, "
            "or hf-hub:owner/name."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist yet.")],
    config: Annotated[
        str | None,
        typer.Option(
            help="Architecture of a bare file: a zoo or open_clip name, a config file or folder.",
            show_default="derived from the shapes of the weights",
        ),
    ] = None,
    quick_gelu: Annotated[
        bool | None,
        typer.Option(
            "--quick-gelu/--gelu",
            help="Activation of a bare file, which cannot be derived from its weights.",
            show_default="from the config, else GELU",
        ),
    ] = None,
    layout: Annotated[
        OutputFormat,
        typer.Option(
            "--format",
            help=("open_clip, or huggingface: one folder that both can open, for a plain ViT."),
        ),
    ] = OutputFormat.OPEN_CLIP,
    json_output: JsonFlag = False,
) -> None:
    """Identify a published checkpoint and save it as a model folder."""
    from tinyclip_edge.api.models import convert as convert_model

    conversion = convert_model(
        source, out, config=config, quick_gelu=quick_gelu, layout=layout.value
    )
    summary = conversion.as_dict() | {"out": str(out), "format": layout.value}
    if json_output:
        print_json(summary)
    else:
        _print_conversion(conversion, out)


def _print_conversion(conversion: Conversion, out: Path) -> None:
    count = conversion.as_dict()["parameters"]
    letters = f"{' + '.join(conversion.forms)}: " if conversion.forms else ""
    typer.echo(f"found         {letters}{conversion.found}")
    typer.echo(f"architecture  {conversion.architecture}")
    typer.echo(f"activation    {conversion.activation}")
    typer.echo(
        f"parameters    image {count['image']:,}, text {count['text']:,}, "
        f"token embedding {count['token_embedding']:,}"
    )
    for note in conversion.notes:
        typer.echo(f"note          {note}")
    typer.echo(f"saved         {out}")
