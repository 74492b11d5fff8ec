"""``tinyclip-edge export``: a student as a verified edge bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

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
from tinyclip_edge.cli.options import CHECKPOINT_HELP, print_json, print_tables, say, say_result
from tinyclip_edge.cli.verbosity import VERBOSITY

if TYPE_CHECKING:
    from tinyclip_export import ExportReport


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
    """Write a model as a bundle of verified ONNX towers.

    They are in fp32, or the precisions of --target, and those that you add. If one of them loses
    too much, nothing is written, and the exit code is 3.
    """
    options = ExportOptions(precisions, verification, finish, contents, output)
    report = run_export(checkpoint, options)
    if output.json_output:
        print_json(report.as_dict())
    else:
        print_report(report)


def print_report(report: ExportReport) -> None:
    """Print tables to stdout; warnings and the next command go to stderr."""
    print_tables([report.table(), *report.search_tables()])
    for warning in report.warnings:
        say(f"note: {warning}")
    say_result(f"bundle: {report.folder}")
    say(f"next: tinyclip-edge demo --student {report.folder}")


def run_export(checkpoint: str | None, options: ExportOptions = DEFAULTS) -> ExportReport:
    """Load a model (the newest run's for None), export it and verify the bundle.

    Options are checked before torch is imported. Raises a TinyClipError.
    """
    from tinyclip_edge.api.exporting import QatRequest
    from tinyclip_edge.api.exporting import export as export_model

    names, preset = options.precisions.resolve()
    finish, output = options.finish, options.output
    return export_model(
        checkpoint,
        output.out,
        precisions=names,
        target=preset,
        verification=options.verification.request(),
        extras=options.contents.read(),
        qat=None if finish.qat is None else QatRequest(finish.qat, finish.qat_data),
        trim_vocab=options.contents.trim_vocab,
        calibrate_labels=options.contents.calibrate_labels,
        force=output.force,
        callback=say,
        progress=not VERBOSITY.quiet,
    )
