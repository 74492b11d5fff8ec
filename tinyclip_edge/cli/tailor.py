"""``tinyclip-edge tailor``: a verified student from pictures, labels and a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.options import (
    JsonFlag,
    TemplateOption,
    print_json,
    print_tables,
    say,
    say_result,
)

CHOICES = "classifier (one file for these labels) or towers (for any query)"


def tailor(
    images: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of pictures; they need no captions.")
    ],
    labels: Annotated[Path, typer.Option(metavar="FILE", help="Labels, one per line.")],
    texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More texts, such as queries, one per line."),
    ] = None,
    template: TemplateOption = None,
    teacher: Annotated[
        str, typer.Option(metavar="MODEL", help="The model to imitate.")
    ] = "starter-teacher",
    general: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A student to compare with.")
    ] = None,
    max_mb: Annotated[
        float,
        typer.Option(
            metavar="X", help="Largest size in megabytes of the files that the device opens."
        ),
    ] = 8.0,
    max_ms: Annotated[
        float,
        typer.Option(
            metavar="X", help="Longest time in milliseconds per picture here, with one thread."
        ),
    ] = 5.0,
    minutes: Annotated[
        float, typer.Option(metavar="X", help="Minutes of training, for all candidates together.")
    ] = 20.0,
    candidates: Annotated[
        int, typer.Option(metavar="N", min=1, help="Largest number of shapes to train.")
    ] = 8,
    larger_patches: Annotated[
        bool,
        typer.Option("--larger-patches", help="Also try patches of 1.5 and 2 times the side."),
    ] = False,
    form: Annotated[
        str, typer.Option(metavar="FORM", help=f"What the budget is for: {CHOICES}.")
    ] = "classifier",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of all runs.")] = 0,
    out: Annotated[Path, typer.Option(help="Bundle folder.")] = Path("bundles/mine"),
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs and the report.", show_default="runs/tailor-<out>"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what a killed call left in --work.")
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Make a student for your own pictures within a budget."""
    from tinyclip_edge.api.tailoring import tailor as tailor_student

    report = tailor_student(
        images,
        labels,
        out,
        texts=texts,
        templates=tuple(template or ("{}",)),
        teacher=teacher,
        general=general,
        max_mb=max_mb,
        max_ms=max_ms,
        minutes=minutes,
        candidates=candidates,
        larger_patches=larger_patches,
        form=form,
        seed=seed,
        work=work,
        resume=resume,
        callback=say,
    )
    if json_output:
        print_json(report.as_dict())
        return
    print_tables([report.table()])
    say_result(f"bundle: {report.bundle}, for the device: {', '.join(report.ship)}")
    say_result(f"report: {report.page}")
    for command in report.commands:
        say(f"by hand: {command}")
