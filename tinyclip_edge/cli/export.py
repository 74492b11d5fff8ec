"""``tinyclip-edge export``: a student as a verified edge bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyclip_edge.cli.export_check import check_request
from tinyclip_edge.cli.export_options import (
    DEFAULTS,
    ContentOptions,
    ExportOptions,
    FinishOptions,
    OutputOptions,
    PrecisionOptions,
    VerificationOptions,
)
from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import CHECKPOINT_HELP, free_folder, print_json, say
from tinyclip_edge.precisions import PRECISIONS

if TYPE_CHECKING:
    from tinyclip_edge.config.preset import ExportPreset
    from tinyclip_edge.models import LoadedClip
    from tinyclip_export import ExportReport
    from tinyclip_export.settings import Extras


@with_option_groups
def export(
    checkpoint: Annotated[
        str | None, typer.Argument(help=CHECKPOINT_HELP, show_default="the newest run")
    ] = None,
    *,
    precisions: PrecisionOptions,
    verification: VerificationOptions,
    finish: FinishOptions,
    contents: ContentOptions,
    output: OutputOptions,
) -> None:
    """Write a model as verified ONNX towers: fp32, and the precisions that you add."""
    options = ExportOptions(precisions, verification, finish, contents, output)
    report = run_export(checkpoint, options)
    if output.json_output:
        print_json(report.as_dict())
    else:
        print_report(report)


def print_report(report: ExportReport) -> None:
    """Print tables to stdout; warnings and the next command go to stderr."""
    from rich.console import Console

    console = Console()
    console.print(report.table())
    for table in report.search_tables():
        console.print(table)
    for warning in report.warnings:
        say(f"note: {warning}")
    say(f"bundle: {report.folder}")
    say(f"next: tinyclip-edge demo --student {report.folder}")


def run_export(checkpoint: str | None, options: ExportOptions = DEFAULTS) -> ExportReport:
    """Load a model (the newest run's for None), export it and verify the bundle.

    Options are checked before torch is imported. Raises a TinyClipError.
    """
    from tinyclip_edge.models import newest_run

    verification, output = options.verification, options.output
    names, preset = options.precisions.resolve()
    extras = options.contents.read()
    corpus = options.contents.trim_vocab
    source = checkpoint if checkpoint is not None else str(newest_run())
    check_request(source, verification, corpus=corpus, output=output)
    from tinyclip_edge.cli.export_pairs import export_pairs
    from tinyclip_edge.models import load_clip
    from tinyclip_export import export_bundle
    from tinyclip_export.settings import ExportSettings

    clip = load_clip(source)
    name = clip.name
    folder = output.out or free_folder(Path("bundles"), name.replace("/", "-"))
    # If no precision is calibrated, all pairs are used for the verification.
    calibrated = any(PRECISIONS[each].calibrated for each in names)
    pairs, supply = export_pairs(verification, calibrated=calibrated)
    data = f"{len(pairs.texts)} pairs of {verification.data}"
    say(f"exporting {source} to {folder}, verified on {data}")
    for note in pairs.notes:
        say(note)
    settings = ExportSettings(
        preset,
        extras=extras,
        search=verification.search,
        require_faster=verification.require_faster,
        calibration=supply,
        notify=say,
    )
    with finetuned(clip, source, options, names, preset, folder) as (finished, qat_report):
        extras = replace(extras, qat_report=qat_report)
        exported, extras = trimmed(finished, corpus, extras, pairs.texts)
        return export_bundle(
            exported,
            folder,
            precisions=names,
            pairs=(pairs.images, pairs.texts),
            max_drop=verification.max_drop,
            name=name,
            force=output.force,
            settings=replace(settings, extras=extras),
        )


@contextmanager
def finetuned(
    clip: LoadedClip,
    source: str,
    options: ExportOptions,
    precisions: Sequence[str],
    preset: ExportPreset,
    bundle: Path,
) -> Iterator[tuple[LoadedClip, dict[str, Any] | None]]:
    """Yield the model after ``--qat``, or the original if that is better, and its report.

    Checkpoints are stored in ``NAME.qat`` beside the bundle until the bundle is written; an
    interrupted training continues from them.
    """
    finish = options.finish
    if finish.qat is None:
        yield clip, None
        return
    from tinyclip_edge.train import ProgressObserver
    from tinyclip_edge.train.qat.finetune import Finishing
    from tinyclip_edge.train.qat.source import finish_model, rounding_for

    folder = bundle.with_name(f"{bundle.name}.qat")
    rounding = rounding_for(precisions, preset)
    with ProgressObserver() as observer:
        finished = finish_model(
            clip,
            source,
            Finishing(finish.qat, image=rounding, text=rounding),
            train=finish.qat_data,
            val=options.verification.data,
            folder=folder,
            observer=observer,
        )
    yield finished.clip, finished.as_dict()
    shutil.rmtree(folder, ignore_errors=True)  # only after the bundle is written


def trimmed(
    clip: LoadedClip, corpus: Path | None, extras: Extras, others: Sequence[str]
) -> tuple[LoadedClip, Extras]:
    """Return the model with only the tokens of a corpus and of the labels; unchanged for None.

    It says how many of the texts ``others`` are cut into other pieces.
    """
    if corpus is None:
        return clip, extras
    from tinyclip_edge.paths import read_lines
    from tinyclip_export.bundle.trim_vocab import trim_vocabulary

    result = trim_vocabulary(clip, [*read_lines(corpus, "corpus"), *extras.prompts], others)
    for line in result.lines:
        say(line)
    return result.clip, replace(extras, vocabulary=result.report)
