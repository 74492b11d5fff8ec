"""``tinyclip-edge export``: a student as a verified edge bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.options import CHECKPOINT_HELP, JsonFlag, free_folder, print_json, say

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_export import ExportReport
    from tinyclip_export.extras import Extras


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
    static_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Fix the batch, and the length of texts: for accelerators that need it.",
            show_default="any batch, texts of any length",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Add a classifier of these labels, one a line, without a text tower."),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            help="Prompts of the labels, one a line, {} for the label.", show_default="{}"
        ),
    ] = None,
    trim_vocab: Annotated[
        Path | None, typer.Option(help="Keep only the tokens that these texts need, one a line.")
    ] = None,
    embed_preprocessing: Annotated[
        bool,
        typer.Option(
            "--embed-preprocessing", help="Add image towers that take uint8 pictures of any size."
        ),
    ] = False,
    standalone: Annotated[
        bool,
        typer.Option(
            "--standalone",
            help="Give transformers.js' pipeline file weights of its own: browsers need no option.",
        ),
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Write a model as verified ONNX towers, fp32 and int8."""
    from tinyclip_export.extras import read_extras

    extras = read_extras(
        labels,
        templates,
        embed_preprocessing=embed_preprocessing,
        standalone=standalone,
        static_batch=static_batch,
    )
    report = run_export(
        checkpoint,
        int8=int8,
        out=out,
        data=data,
        limit=limit,
        max_drop=max_drop,
        force=force,
        extras=extras,
        trim_vocab=trim_vocab,
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
    extras: Extras | None = None,
    trim_vocab: Path | None = None,
) -> ExportReport:
    """Load, export and verify; quickstart shares it."""
    from tinyclip_edge.evaluate import evaluation_set
    from tinyclip_edge.models import load_clip, newest_run
    from tinyclip_export import export_bundle
    from tinyclip_export.extras import NO_EXTRAS

    source = checkpoint if checkpoint is not None else str(newest_run())
    clip = load_clip(source)
    folder = out if out is not None else free_folder(Path("bundles"), clip.name.replace("/", "-"))
    pairs = evaluation_set(data, limit=limit)
    say(f"exporting {source} to {folder}, verified on {len(pairs.texts)} pairs of {data}")
    for note in pairs.notes:
        say(note)
    with trimmed(clip, trim_vocab, extras or NO_EXTRAS) as (clip, wanted):
        return export_bundle(
            clip,
            folder,
            precisions=("fp32", "int8") if int8 else ("fp32",),
            pairs=(pairs.images, pairs.texts),
            max_drop=max_drop,
            force=force,
            extras=wanted,
        )


@contextmanager
def trimmed(
    clip: LoadedClip, corpus: Path | None, extras: Extras
) -> Iterator[tuple[LoadedClip, Extras]]:
    """Give the model with the vocabulary of a corpus and of the labels, or as it is without one."""
    if corpus is None:
        yield clip, extras
        return
    from tinyclip_export.labels import read_lines
    from tinyclip_export.vocab import trim_vocabulary

    texts = [*read_lines(corpus, "corpus"), *extras.prompts]
    with tempfile.TemporaryDirectory(prefix="tinyclip-edge-") as folder:
        found = trim_vocabulary(clip, texts, Path(folder))
        say("vocabulary: {tokens} of {of} tokens kept for {texts} texts".format(**found.report))
        yield found.clip, replace(extras, vocabulary=found.report)
