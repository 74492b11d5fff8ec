"""``tinyclip-edge inherit``: step 0 only, that is the inherited weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.distill import ConfigArgs
from tinyclip_edge.cli.options import (
    JsonFlag,
    free_folder,
    print_json,
    require_empty,
    say,
)
from tinyclip_edge.cli.run_config import check_vocab, read_run
from tinyclip_edge.errors import ConfigError, TinyClipError

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig


def inherit(
    config: ConfigArgs = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the student and the report.", show_default="runs/<name>-step0"
        ),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Save the student as it is before training, and report what it inherits."""
    run = read_run(config, pairs=("val",))
    check_vocab(run)
    _check_method(run)
    folder = out if out is not None else free_folder(Path("runs"), f"{run.name}-step0")
    require_empty(folder)
    from tinyclip_edge.models import load_clip, save_local_dir
    from tinyclip_edge.train.preflight.step0 import step_zero
    from tinyclip_edge.train.stages.student import start_student
    from tinyclip_edge.train.vocabulary import origin_of

    teacher = load_clip(run.teacher.model, run.teacher.pretrained)
    student, inherited = start_student(run, origin_of(run, teacher, say).clip)
    if inherited is None:
        raise ConfigError("the first stage learns masks and inherits nothing; see distill")
    report = step_zero(run, teacher, student, inherited)
    save_local_dir(folder / "student", student)
    content = {"student": str(folder / "student"), "plan": run.inherit.plan, **report.as_dict()}
    _save_report(folder, content, report.text())
    if json_output:
        print_json(content)
        return
    from rich.console import Console

    console = Console()
    for table in report.tables():
        console.print(table)
    say(report.closing())
    say(f"student: {folder / 'student'}, report: {folder / 'report.json'} and report.txt")


def _save_report(folder: Path, content: dict[str, object], text: str) -> None:
    try:
        (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / "report.txt").write_text(text, encoding="utf-8")
    except OSError as error:
        raise TinyClipError(
            f"{folder}: the report cannot be written ({error}); the student was saved"
        ) from error


def _check_method(run: RunConfig) -> None:
    """Raise ConfigError if nothing is inherited before the first step."""
    if run.inherit.method != "uniform":
        raise ConfigError(
            f"inherit.method is {run.inherit.method}: there is nothing to inherit before training; "
            "set it to uniform"
        )
