"""``tinyclip-edge eval``: zero-shot classification and retrieval of any model."""

from __future__ import annotations

from enum import Enum
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
)


class EvalTask(str, Enum):
    """What to measure."""

    zero_shot = "zero-shot"
    retrieval = "retrieval"


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    task: Annotated[EvalTask, typer.Option(help="What to measure.")] = EvalTask.retrieval,
    data: Annotated[
        str,
        typer.Option(
            help=(
                "starter:test_style, starter:test_concepts, starter:val, pairs in any form of "
                "data.train, a folder or tar with one folder of images per class, or a run's "
                "YAML file, for its data.val."
            )
        ),
    ] = "starter:test_style",
    precision: Annotated[
        str | None,
        typer.Option(help="One of a bundle's precisions.", show_default="the bundle's own"),
    ] = None,
    template: TemplateOption = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Use at most this many images.", show_default="all"),
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonFlag = False,
) -> None:
    """Measure zero-shot classification or retrieval."""
    from tinyclip_edge.api.models import evaluate as evaluate_model

    report = evaluate_model(
        model, task=task.value, data=data, precision=precision,
        templates=tuple(template or ("{}",)), limit=limit, threads=threads, device=device,
    )  # fmt: skip
    if json_output:
        print_json(report.as_dict())
        return
    print_tables(report.tables())
