"""``tinyclip-edge distill --dry-run``: the plan of a run as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.cli.options import print_json, print_tables, say
from tinyclip_edge.notebook import report_table
from tinyclip_edge.units import duration, operations, size

if TYPE_CHECKING:
    from rich.table import Table

    from tinyclip_edge.config import RunConfig
    from tinyclip_edge.train.preflight.dry_run import RunPlan, StagePlan


def show_plan(config: RunConfig, *, processes: int, tflops: float | None, as_json: bool) -> None:
    """Print the plan of a run; raise TinyClipError if the run could not start.

    ``tflops``: of a device; None to measure this machine.
    """
    from tinyclip_edge.train.preflight.dry_run import plan_run

    plan = plan_run(config, processes=processes)
    source = "from --tflops"
    if tflops is None:
        tflops, source = _measured(config), "measured here with a small layer (--tflops)"
    if as_json:
        print_json({**plan.as_dict(), "tflops": tflops, "device_hours": plan.hours(tflops)})
        return
    print_tables([plan_table(plan, tflops)])
    per_device = f"on each of {plan.processes} devices " if plan.processes > 1 else ""
    say(
        f"memory {per_device}covers the teacher ({size(plan.teacher_bytes)}), the student "
        f"with AdamW and the activations of {plan.held:,} pairs"
    )
    say(
        f"total device time about {duration(3600 * plan.hours(tflops))}, at "
        f"{operations(1e12 * tflops)}/s per device, "
        f"{source}; texts at full context, the teacher run on every pair"
    )
    say("nothing was trained")


def plan_table(plan: RunPlan, tflops: float) -> Table:
    """Return a table of the stages, one per column."""
    table = report_table(
        f"{plan.name}: {plan.teacher}, {plan.teacher_parameters / 1e6:.1f} M",
        [f"stage {stage.number}" for stage in plan.stages],
    )
    cells = [_facts(stage, plan, tflops) for stage in plan.stages]
    for name in cells[0]:
        if any(facts[name] for facts in cells):  # without masks nothing is pruned
            table.add_row(name, *(facts[name] for facts in cells))
    return table


def _facts(stage: StagePlan, plan: RunPlan, tflops: float) -> dict[str, str]:
    from tinyclip_edge.train.preflight.dry_run import device_hours

    memory = plan.teacher_bytes + stage.student_bytes + stage.activation_bytes
    work = stage.pflop + stage.teacher_pflop
    return {
        "student": stage.student.removeprefix("TinyCLIP-"),
        "image parameters": f"{stage.image_parameters / 1e6:.2f} M",
        "text parameters, no token table": f"{stage.text_parameters / 1e6:.2f} M",
        "learning rate": f"{stage.lr:g}",
        f"steps of {plan.batch_size:,} pairs": f"{stage.steps:,}",
        "pruned after": "" if stage.prune_after is None else f"{stage.prune_after:,}",
        "pairs": f"{stage.samples:,}",
        "memory, about": size(memory),
        "teacher's work": operations(1e15 * stage.teacher_pflop),
        "student's work": operations(1e15 * stage.pflop),
        "device time, about": duration(3600 * device_hours(work, tflops)),
    }


def _measured(config: RunConfig) -> float:
    import torch

    from tinyclip_edge.train.preflight.machine_rate import training_tflops

    on_gpu = config.run.device != "cpu" and torch.cuda.is_available()
    return training_tflops(torch.device("cuda" if on_gpu else "cpu"), config.run.precision)
