"""``tinyclip-edge quickstart``: the whole pipeline once, offline: distil, export, compare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.export import run_export
from tinyclip_edge.cli.export_options import ExportOptions, OutputOptions, PrecisionOptions
from tinyclip_edge.cli.options import (
    JsonFlag,
    print_json,
    print_tables,
    progress_console,
    refuse_launcher,
    say,
    say_result,
)
from tinyclip_edge.paths import free_folder
from tinyclip_edge.units import duration


def quickstart(
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Distillation steps.", show_default="as configured"),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Distil, export to int8 and compare, offline, in minutes."""
    refuse_launcher("quickstart")
    from tinyclip_edge.starter import kit_path

    kit_path()  # before torch is imported
    from tinyclip_edge.config import load_config
    from tinyclip_edge.evaluation import compare_models
    from tinyclip_edge.report import write_final_report
    from tinyclip_edge.train import ProgressObserver, distill

    started = time.monotonic()
    run = load_config("starter", [] if steps is None else [f"optim.steps={steps}"])
    folder = free_folder(Path("runs"), "quickstart")
    say(f"1/3  distil: {run.teacher.model} -> {run.student.model}, {run.optim.steps:,} steps")
    with ProgressObserver(progress_console()) as observer:
        result = distill(run, folder, observer=observer)
    say("2/3  export: ONNX towers, int8, verified against PyTorch")
    bundle = free_folder(Path("bundles"), folder.name)
    options = ExportOptions(PrecisionOptions(int8=True), output=OutputOptions(out=bundle))
    run_export(str(result.student), options)
    write_final_report(folder, say)  # again, because the bundle exists now
    say("3/3  compare: teacher, student, int8 on pictures of a style not used in training")
    comparison = compare_models(
        {
            "teacher": (run.teacher.model, None),
            "student": (str(result.student), None),
            "student int8": (str(bundle), "int8"),
        },
        notes=from_scratch_note(),
    )
    if json_output:
        print_json(comparison.as_dict())
        return
    print_tables(comparison.tables())
    say(f"done in {duration(time.monotonic() - started)}")
    say_result(f"student: {result.student}   bundle: {bundle}")
    say_result(f"report: {folder / 'report' / 'report.html'}")
    say(f"next: tinyclip-edge demo --student {folder} --student {bundle}")


def from_scratch_note() -> tuple[str, ...]:
    """Return the stored result of the same student trained from scratch, with its command."""
    import json

    from tinyclip_edge.starter import from_scratch_path

    figures = json.loads(from_scratch_path().read_text(encoding="utf-8"))
    return (
        f"from scratch, same {figures['steps']} steps and batches: recall@1 "
        f"{100 * figures['recall_at_1']:.1f} % (text to image, mean of {figures['seeds']} seeds; "
        f"stored result of: {figures['command']})",
    )
