"""Results of the natural-image arms for the paper's claims: a table, a plot, all curves.

python benchmarks/natural_claims.py --work runs/natural --out benchmarks/results/natural
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from distill_arms import steps_to_reach
from natural_jobs import ARMS, STILL_ARMS, TUNED, TUNING_SEED

TITLES = {
    "both": "half, inherited + affinity",
    "affinity": "half, random + affinity",
    "inherited": "half, inherited + contrastive",
    "scratch": "half, random + contrastive",
    "tiny": "8.9 %, inherited + affinity",
    "full-scratch": "full size, random + contrastive",
    "masks": "half, learnt masks + affinity",
    "recipe": "half, inherited + affinity + feature",
    "three-stages": "27.5 % in three stages, affinity",
    "one-stage": "27.5 % in one stage, affinity",
    "still-affinity": "affinity",
    "still-contrastive": "contrastive",
    "still-feature": "feature",
    "still-affinity+feature": "affinity + feature",
    "still-affinity+contrastive": "affinity + contrastive",
    "still-all": "all three",
    "still-random-affinity": "random weights, affinity",
    "still-random-contrastive": "random weights, contrastive",
    "still-published": "published plan, affinity",
    "still-evenly": "evenly, affinity",
}
COLOURS = ("#0f766e", "#2563eb", "#b45309", "#64748b", "#7c3aed", "#be123c", "#0891b2", "#65a30d",
           "#c026d3", "#78716c")  # fmt: skip
SCRATCH = {"scratch", "still-random-contrastive"}  # a folder has one of the two


def read_runs(work: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, float]]]:
    """Return the finished runs by arm, and the top-1 of every tuning run by rate."""
    runs: dict[str, list[dict[str, Any]]] = {}
    rate_scores: dict[str, dict[str, float]] = {}
    for path in sorted((work / "arms").glob("*.json")):
        record = json.loads(path.read_text())
        if record["seed"] == TUNING_SEED:
            last = record["curve"][str(record["steps"])]["top1"]
            rate_scores.setdefault(record["arm"], {})[f"{record['lr']:g}"] = last
        else:
            runs.setdefault(record["arm"], []).append(record)
    return runs, rate_scores


def unfinished(work: Path) -> dict[str, dict[str, float]]:
    """Return top-1 by step of interrupted runs."""
    from tinyclip_edge.train import read_events

    curves: dict[str, dict[str, float]] = {}
    for events in sorted((work / "arms").glob("*/events.jsonl")):
        name = events.parent.name
        if (work / "arms" / f"{name}.json").exists() or name.endswith("tuning"):
            continue
        curves[name] = {
            str(event["step"]): round(100 * float(str(event["i2t_r1"])), 3)
            for event in read_events(events)
            if event["kind"] == "eval" and event["who"] == "student"
        }
    return curves


def row(records: list[dict[str, Any]], level: float | None) -> dict[str, Any]:
    ends = [record["curve"][str(record["steps"])] for record in records]
    reach = [None if level is None else steps_to_reach(r["curve"], level, "top1") for r in records]
    return {
        "seeds": [record["seed"] for record in records],
        "lr": records[0]["lr"],
        "steps": records[0]["steps"],
        "encoder_parameters": records[0]["encoder_parameters"],
        "top1": [end["top1"] for end in ends],
        "top1_mean": round(statistics.mean(end["top1"] for end in ends), 2),
        "top1_before": [record["curve"]["0"]["top1"] for record in records],
        "top5_mean": round(statistics.mean(end["top5"] for end in ends), 2),
        "steps_to_scratch_end": reach,
        "seconds": [round(record["seconds"], 1) for record in records],
    }


def summarise(work: Path) -> dict[str, Any]:
    runs, rate_scores = read_runs(work)
    some = next(iter(runs.values()))[0]
    arms = STILL_ARMS if STILL_ARMS.keys() & runs.keys() else ARMS
    level = None
    for arm in SCRATCH & runs.keys():
        level = statistics.mean(r["curve"][str(r["steps"])]["top1"] for r in runs[arm])
    return {
        "measured_on": "every second validation picture of Tiny-ImageNet, zero-shot top-1 of 200",
        "teacher": some["teacher"] | json.loads((work / "teacher.json").read_text()),
        "tried_on_the_other_half": rate_scores,
        "arms": {arm: row(runs[arm], level) for arm in arms if arm in runs},
        "not_run": [arm for arm in arms if arm not in runs],
        "cut_off": unfinished(work),
        "curves": {
            arm: [{step: values["top1"] for step, values in r["curve"].items()} for r in records]
            for arm, records in runs.items()
        },
    }


def plot(summary: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.6, 4.2), dpi=140)
    plotted = [arm for arm in (*TUNED, *STILL_ARMS) if arm in summary["curves"]]
    for arm, colour in zip(plotted, COLOURS, strict=False):
        for number, curve in enumerate(summary["curves"][arm]):
            steps = sorted(map(int, curve))
            label = TITLES[arm] if number == 0 else None
            axes.plot(steps, [curve[str(s)] for s in steps], color=colour, lw=1.7, label=label)
    teacher = summary["teacher"]["top1"]
    axes.axhline(teacher, color="#111827", lw=1, ls="--", label="teacher")
    axes.set(xlabel="step (200 pairs each)", ylabel="zero-shot top-1, %", ylim=(0, None))
    axes.set_title(
        "Tiny-ImageNet, 200 classes, pictures not used for training or tuning", fontsize=10
    )
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/natural"))
    parser.add_argument("--machine", default="", help="machine of the runs, for the record")
    parser.add_argument("--out", type=Path, required=True, help="written as .json and .png")
    arguments = parser.parse_args()
    summary = {"machine": arguments.machine, **summarise(arguments.work)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    plot(summary, arguments.out.with_suffix(".png"))
    print(f"teacher {summary['teacher']['top1']:.1f}")
    for arm, figures in summary["arms"].items():
        steps = [None if s is None else round(s) for s in figures["steps_to_scratch_end"]]
        print(f"{TITLES.get(arm, arm):36} {figures['top1_mean']:5.1f}  {figures['top1']} {steps}")


if __name__ == "__main__":
    main()
