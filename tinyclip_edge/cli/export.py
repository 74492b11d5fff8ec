"""``tinyclip-edge export``: a student as a verified edge bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.export_check import check_request
from tinyclip_edge.cli.options import CHECKPOINT_HELP, JsonFlag, free_folder, print_json, say
from tinyclip_edge.precisions import PRECISIONS, check_precisions

if TYPE_CHECKING:
    from tinyclip_edge.config.preset import ExportPreset
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.train.qat.finetune import Finished, Finishing
    from tinyclip_export import ExportReport
    from tinyclip_export.settings import ExportSettings, Extras


def export(
    checkpoint: Annotated[
        str | None, typer.Argument(help=CHECKPOINT_HELP, show_default="the newest run")
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Add int8: dynamic, static for the convolutions of a ResNet."),
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Add float16, for GPUs.")] = False,
    static: Annotated[
        bool, typer.Option("--static", help="Add static int8, with ranges measured beforehand.")
    ] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(help=f"Add one more: {', '.join(PRECISIONS)}.", metavar="NAME"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Precisions and settings for x86, x86-vnni, x86-vnni-single, arm64 or browser, "
            "or a YAML file.",
            show_default="fp32, right on every CPU",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Bundle folder.", show_default="bundles/<name>")
    ] = None,
    data: Annotated[
        str, typer.Option(help="Pairs for the verification: starter:val or a shard pattern.")
    ] = "starter:val",
    limit: Annotated[int, typer.Option(min=2, help="At most so many pairs.")] = 1000,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Pairs that static ranges and --search are measured on.",
            show_default="starter:train, or a part of --data that is then not verified on",
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Points of recall@1 that a precision may lose, and one standard error more; too "
            "few pairs to tell are said.",
        ),
    ] = 0.5,
    search: Annotated[
        bool | None,
        typer.Option(
            "--search/--no-search",
            help="Smooth activations, rank layers by what they cost the ranking, and leave the "
            "worst in float; takes minutes.",
            show_default="where --max-drop does not hold without",
        ),
    ] = None,
    token_bits: Annotated[
        int | None,
        typer.Option(help="Bits of the token table: 8, 4, or 32.", show_default="as the target"),
    ] = None,
    qat: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Finish the student first: so many steps of distillation with rounded towers.",
            metavar="STEPS",
            show_default="none",
        ),
    ] = None,
    qat_data: Annotated[
        str | None, typer.Option(help="Training pairs of --qat.", show_default="those of the run")
    ] = None,
    require_faster: Annotated[
        bool,
        typer.Option("--require-faster", help="Refuse a precision that is slower here than fp32."),
    ] = False,
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
    """Write a model as verified ONNX towers: fp32 and what is asked for."""
    from tinyclip_export.bundle.extras import read_extras
    from tinyclip_export.settings import ExportSettings

    flags = {"int8": int8, "fp16": fp16, "static": static}
    asked = [*(name for name, given in flags.items() if given), *(precision or [])]
    precisions, preset = chosen(asked, target, token_bits)
    extras = read_extras(
        labels,
        templates,
        embed_preprocessing=embed_preprocessing,
        standalone=standalone,
        static_batch=static_batch,
    )
    report = run_export(
        checkpoint,
        precisions=precisions,
        out=out,
        data=data,
        limit=limit,
        calibration=calibration,
        max_drop=max_drop,
        force=force,
        trim_vocab=trim_vocab,
        qat=qat,
        qat_data=qat_data,
        settings=ExportSettings(
            preset, extras=extras, search=search, require_faster=require_faster, tell=say
        ),
    )
    if json_output:
        print_json(report.as_dict())
    else:
        print_report(report)


def chosen(
    asked: Sequence[str], target: str | None, token_bits: int | None
) -> tuple[tuple[str, ...], ExportPreset]:
    """Return the precisions to write and the settings of a target. Raises ConfigError."""
    from tinyclip_edge.config.preset import ExportPreset, load_preset

    preset = load_preset(target) if target is not None else ExportPreset()
    if token_bits is not None:
        preset = preset.with_token_table(token_bits)
    base = preset.precisions if target is not None else ["fp32"]
    return check_precisions([*base, *asked]), preset


def print_report(report: ExportReport) -> None:
    """Print tables to stdout, what to know and where to go on to stderr."""
    from rich.console import Console

    console = Console()
    console.print(report.table())
    for table in report.search_tables():
        console.print(table)
    for warning in report.warnings:
        say(f"note: {warning}")
    say(f"bundle: {report.folder}")
    say(f"next: tinyclip-edge demo --student {report.folder}")


def run_export(
    checkpoint: str | None,
    *,
    int8: bool = False,
    precisions: Sequence[str] | None = None,
    out: Path | None,
    data: str = "starter:val",
    limit: int = 1000,
    calibration: str | None = None,
    max_drop: float = 0.5,
    force: bool = False,
    trim_vocab: Path | None = None,
    qat: int | None = None,
    qat_data: str | None = None,
    settings: ExportSettings | None = None,
) -> ExportReport:
    """Load, export and verify; quickstart shares it, with `int8` in place of `precisions`."""
    from tinyclip_edge.models import newest_run

    source = checkpoint if checkpoint is not None else str(newest_run())
    check_request(source, out, data, calibration, trim_vocab, force=force)
    from tinyclip_edge.cli.export_pairs import export_pairs
    from tinyclip_edge.models import load_clip
    from tinyclip_export import export_bundle
    from tinyclip_export.settings import DEFAULT

    clip = load_clip(source)
    folder = out if out is not None else free_folder(Path("bundles"), clip.name.replace("/", "-"))
    wanted = precisions or (("fp32", "int8") if int8 else ("fp32",))
    # Nothing of these is calibrated, so all pairs are for the verification.
    floats = not any(PRECISIONS[name].calibrated for name in wanted)
    pairs, supply = export_pairs(data, limit, calibration, whole=floats)
    say(f"exporting {source} to {folder}, verified on {len(pairs.texts)} pairs of {data}")
    for note in pairs.notes:
        say(note)
    settings = replace(settings or DEFAULT, calibration=supply)
    name = clip.name
    if qat is not None:
        from tinyclip_edge.train.qat.finetune import Finishing
        from tinyclip_edge.train.qat.source import rounding_for

        how = rounding_for(wanted, settings.preset)
        found = finished(clip, source, Finishing(qat, image=how, text=how), qat_data, data)
        clip = found.clip
        told = replace(settings.extras, finished=found.as_dict())
        settings = replace(settings, extras=told)
    with trimmed(clip, trim_vocab, settings.extras) as (clip, extras):
        return export_bundle(
            clip,
            folder,
            precisions=wanted,
            pairs=(pairs.images, pairs.texts),
            max_drop=max_drop,
            name=name,
            force=force,
            settings=replace(settings, extras=extras),
        )


def finished(
    clip: LoadedClip, source: str, finishing: Finishing, train: str | None, val: str
) -> Finished:
    """Return the model after a short distillation with rounded towers, or as it was if it is worse.

    The manifest says so.
    """
    from tinyclip_edge.train import ProgressObserver
    from tinyclip_edge.train.qat.source import finish_model

    with ProgressObserver() as observer:
        return finish_model(clip, source, finishing, train=train, val=val, observer=observer)


@contextmanager
def trimmed(
    clip: LoadedClip, corpus: Path | None, extras: Extras
) -> Iterator[tuple[LoadedClip, Extras]]:
    """Give the model with the vocabulary of a corpus and of the labels, or as it is without one."""
    if corpus is None:
        yield clip, extras
        return
    from tinyclip_export.bundle.label_classifier import read_lines
    from tinyclip_export.bundle.trim_vocab import trim_vocabulary

    texts = [*read_lines(corpus, "corpus"), *extras.prompts]
    with tempfile.TemporaryDirectory(prefix="tinyclip-edge-") as folder:
        found = trim_vocabulary(clip, texts, Path(folder))
        say("vocabulary: {tokens} of {of} tokens kept for {texts} texts".format(**found.report))
        yield found.clip, replace(extras, vocabulary=found.report)
