"""``tinyclip-edge inherit``: only step 0, the weights that a student takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.distill import ConfigArgs
from tinyclip_edge.cli.options import JsonFlag, free_folder, print_json, say, split_config_args
from tinyclip_edge.errors import ConfigError, ModelError


def inherit(
    config: ConfigArgs = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the student.", show_default="runs/<name>-step0")
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Show what a student inherits, and save it untrained."""
    from tinyclip_edge.config import load_config
    from tinyclip_edge.models import load_clip, save_local_dir
    from tinyclip_edge.train.stages import start_student

    name, overrides = split_config_args(config, "starter")
    run = load_config(name, overrides)
    if run.inherit.method == "none":
        raise ConfigError("inherit.method is none: there is nothing to inherit; set it to uniform")
    folder = out if out is not None else free_folder(Path("runs"), f"{run.name}-step0")
    _check_empty(folder)
    teacher = load_clip(run.teacher.model, run.teacher.pretrained)
    student, report = start_student(run, teacher)
    assert report is not None
    save_local_dir(folder / "student", student)
    if json_output:
        print_json({"student": str(folder / "student"), **report.as_dict()})
        return
    from rich.console import Console

    Console().print(report.table())
    say(f"student: {folder / 'student'}")


def _check_empty(folder: Path) -> None:
    """Raise ModelError unless the folder is absent or empty: a trained student may lie in it."""
    try:
        taken = folder.exists() and any(folder.iterdir())
    except OSError as error:
        raise ModelError(f"cannot write {folder}: {error.strerror or error}") from error
    if taken:
        raise ModelError(f"{folder} is not empty; choose a new folder with --out")
