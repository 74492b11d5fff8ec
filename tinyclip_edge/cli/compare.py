"""``tinyclip-edge compare``: models ranked by several evaluation sets."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.options import (
    MODEL_HELP,
    DeviceOption,
    JsonFlag,
    TemplateOption,
    ThreadsOption,
    print_json,
    print_tables,
    say_result,
)


class CompareTask(str, Enum):
    """What to measure."""

    auto = "auto"
    zero_shot = "zero-shot"
    retrieval = "retrieval"


def compare(
    models: Annotated[list[str], typer.Argument(help=MODEL_HELP)],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET...",
            help="Evaluation sets, in any form that eval takes; all words up to the next option.",
            show_default="starter:test_style",
        ),
    ] = None,
    task: Annotated[
        CompareTask,
        typer.Option(help="What to measure; auto: zero-shot of sets with classes, else retrieval."),
    ] = CompareTask.auto,
    template: TemplateOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Use at most this many images of each set.", show_default="all"
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(metavar="N", min=100, help="Bootstrap resamples of the images.")
    ] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the resamples.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw scores and shares of places, as .png or .html.",
            show_default="none",
        ),
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonFlag = False,
) -> None:
    """Rank models by many sets; say which differences are certain."""
    from tinyclip_edge.api.models import compare as compare_models
    from tinyclip_edge.evaluation.resampling import Resampling
    from tinyclip_edge.report.standings import check_plot, write_standings

    if plot is not None:
        check_plot(plot)
    standings = compare_models(
        models, data=data or ("starter:test_style",), task=task.value,
        templates=tuple(template or ("{}",)), limit=limit, resampling=Resampling(resamples, seed),
        threads=threads, device=device,
    )  # fmt: skip
    if plot is not None:
        write_standings(standings.picture(), plot)
        say_result(f"plot: {plot}")
    if json_output:
        print_json(standings.as_dict())
        return
    print_tables(standings.tables())
