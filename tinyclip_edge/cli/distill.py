"""``tinyclip-edge distill``: teacher to student."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.api.run_checks import check_pairs, check_vocab
from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import progress_console, refuse_launcher, say, say_result
from tinyclip_edge.cli.run_config import read_run
from tinyclip_edge.cli.run_plan import show_plan
from tinyclip_edge.errors import ConfigError, InterruptedRun
from tinyclip_edge.launcher import check_batch, first_process
from tinyclip_edge.paths import free_folder

ConfigArgs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG KEY=VALUE",
        help="A YAML file or the name of a shipped one, then overrides such as optim.steps=500.",
        show_default="starter",
    ),
]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options for showing the plan of a run instead of training."""

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help=(
                "Show stages, shapes, memory and cost, and train nothing. If the pairs of "
                "data.train do not exist, the plan is still shown, and the exit code is 2."
            ),
        ),
    ] = False
    processes: Annotated[
        int, typer.Option(metavar="N", min=1, help="With --dry-run: devices that share a batch.")
    ] = 1
    tflops: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0.001,
            help="With --dry-run: TFLOP/s that a device reaches, such as 114 for an H100 in bf16.",
            show_default="measured on this machine",
        ),
    ] = None
    json_output: Annotated[
        bool, typer.Option("--json", help="With --dry-run: print one JSON object on stdout.")
    ] = False


@with_option_groups
def distill(
    config: ConfigArgs = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="runs/<name>")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Continue the run in this folder from its newest complete checkpoint; a larger "
                "optim.steps extends the run and its schedule."
            )
        ),
    ] = None,
    plan: PlanOptions,
) -> None:
    """Train a student: inherit weights, mimic affinities."""
    if plan.json_output and not plan.dry_run:
        raise ConfigError("--json requires --dry-run; a run writes events.jsonl in its folder")
    if out is not None and resume is not None:
        raise ConfigError(
            f"--out {out} with --resume {resume}: a resumed run stays in its folder; drop --out"
        )
    from tinyclip_edge.train.folder_check import (
        CHECKPOINTS,
        check_run_folder,
        checkpoint_steps,
        resumed_config,
    )

    default = "starter" if resume is None else str(resumed_config(resume))
    pairs = () if plan.dry_run else ("train", "val")  # a plan needs no data
    run = read_run(config, default, pairs=pairs)
    if resume is None:  # a resumed run has its vocabulary in its folder
        check_vocab(run)
    if plan.dry_run:
        refuse_launcher("distill --dry-run")
        show_plan(run, processes=plan.processes, tflops=plan.tflops, as_json=plan.json_output)
        check_pairs(run)
        return
    check_batch(run.optim.batch_size)
    folder = resume or out or free_folder(Path("runs"), run.name)
    if first_process():  # the others may start while the first already writes into the folder
        check_run_folder(folder, resume=resume is not None)
    from tinyclip_edge.train import ProgressObserver
    from tinyclip_edge.train import distill as run_distill
    from tinyclip_edge.train.distributed import disband

    try:
        with ProgressObserver(progress_console()) as observer:
            result = run_distill(run, folder, resume=resume is not None, observer=observer)
    except KeyboardInterrupt:  # before the first step, or a second Ctrl-C
        if not checkpoint_steps(folder / CHECKPOINTS):
            raise
        raise InterruptedRun(
            f"interrupted; continue from the last checkpoint: tinyclip-edge distill --resume "
            f"{folder}"
        ) from None
    disband()
    if first_process():
        _say_next(result.student, folder)


def _say_next(student: Path, folder: Path) -> None:
    say_result(f"student: {student}")
    page = folder / "report" / "report.html"
    if page.is_file():
        say_result(f"report: {page}")
    say(f"next: tinyclip-edge export {folder} --int8")
