"""``tinyclip-edge inherit``: only step 0, the weights that a student takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.distill import ConfigArgs
from tinyclip_edge.cli.options import JsonFlag, free_folder, print_json, say, split_config_args
from tinyclip_edge.errors import ConfigError


def inherit(
    config: ConfigArgs = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the student.", show_default="runs/<name>-step0")
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Show what a student inherits, and save it untrained."""
    from tinyclip_edge.config import load_config
    from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir

    name, overrides = split_config_args(config, "starter")
    run = load_config(name, overrides)
    if run.inherit.method == "none":
        raise ConfigError("inherit.method is none: there is nothing to inherit; set it to uniform")
    folder = out if out is not None else free_folder(Path("runs"), f"{run.name}-step0")
    teacher = load_clip(run.teacher.model, run.teacher.pretrained)
    student = create_student(run.student.model, teacher)
    report = inherit_student(teacher, student, layers=run.inherit.layers)
    save_local_dir(folder / "student", student)
    if json_output:
        print_json({"student": str(folder / "student"), **report.as_dict()})
        return
    from rich.console import Console

    Console().print(report.table())
    say(f"student: {folder / 'student'}")
