"""Effect of inheritance and affinity mimicking at equal steps, with tuned learning rates.

Three arms train the same student on the starter kit: ``inherited`` (weights of the teacher, then
affinity mimicking), ``affinity`` (random weights, affinity mimicking) and ``scratch`` (random
weights, contrastive loss). Each arm's learning rate is tuned over the same list, starting in the
middle, by mean recall@1 on ``starter:val`` with a separate seed (``--rates`` sets known ones). Then
every seed is measured on Twemoji, a style that is not in the training data. Finished runs stay in
``--work`` and are not repeated. ``--store`` writes the result of ``scratch`` that
``tinyclip-edge quickstart`` shows next to its own. ``--out`` is written as .json and .png.

    python benchmarks/distill_arms.py --student starter-50 --out benchmarks/results/arms-50
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kept_runs import cached_run, runs_parser, teacher_hash, twemoji_shard

AFFINITY = ["loss.affinity=1.0", "loss.feature=0.0", "loss.contrastive=0.0"]
ARMS: dict[str, list[str]] = {
    "inherited": ["inherit.method=uniform", *AFFINITY],
    "affinity": ["inherit.method=none", *AFFINITY],
    "scratch": [
        "inherit.method=none",
        "loss.affinity=0.0",
        "loss.feature=0.0",
        "loss.contrastive=1.0",
        "loss.student_logit_scale=learned",
    ],
}
NAMES = {
    "inherited": "inherited + affinity",
    "affinity": "random + affinity",
    "scratch": "random + contrastive (from scratch)",
}
TUNING_SEED = 1000
PLOT_FLOOR = 0.05  # percent; chance is 0.06
RECIPES = {"starter-50": "starter", "starter-15": "starter-15"}  # configuration of a student
STORED_STUDENT = "starter-50"  # quickstart's


def measured_every(arguments: argparse.Namespace, seed: int) -> int:
    """Return the steps between measurements; 0 for tuning, where only the last one counts."""
    return 0 if seed == TUNING_SEED else int(arguments.every)


def run_folder(arguments: argparse.Namespace, arm: str, lr: float, seed: int) -> Path:
    """Return the folder of a run, named after everything on which its figures depend."""
    every = measured_every(arguments, seed)
    name = (
        f"{arm}-lr{lr:g}-seed{seed}-steps{arguments.steps}-every{every}-teacher{arguments.teacher}"
    )
    return Path(arguments.work) / str(arguments.student) / name


def train(
    arguments: argparse.Namespace, arm: str, lr: float, seed: int, val: str
) -> dict[str, Any]:
    """Run one arm once, or read the record of an earlier call."""
    from tinyclip_edge.config import load_config

    config = load_config(
        RECIPES[arguments.student],
        [
            *ARMS[arm],
            f"optim.lr={lr}",
            f"optim.steps={arguments.steps}",
            f"seed={seed}",
            f"data.val={val}",
            f"data.val_limit={5000}",
            f"run.eval_every={measured_every(arguments, seed)}",
            "run.save_every=0",
        ],
    )
    folder = run_folder(arguments, arm, lr, seed)
    return cached_run(config, folder, {"arm": arm, "lr": lr, "seed": seed})


def steps_to_reach(
    curve: dict[str, dict[str, float]], level: float, figure: str = "r1"
) -> float | None:
    """Return the first step, interpolated between evaluations, at which a figure is ``level``."""
    before = (0.0, 0.0)
    for step, values in sorted((int(s), v) for s, v in curve.items()):
        if values[figure] >= level:
            rise = values[figure] - before[1]
            share = 1.0 if rise <= 0 or step == 0 else (level - before[1]) / rise
            return before[0] + max(0.0, share) * (step - before[0])
        before = (float(step), values[figure])
    return None


def summarise(
    arguments: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    last = str(arguments.steps)
    scratch = [run["curve"][last]["r1"] for run in runs["scratch"]]
    table: dict[str, Any] = {}
    for arm, records in runs.items():
        ends = {key: [r["curve"][last][key] for r in records] for key in records[0]["curve"][last]}
        reach = [
            steps_to_reach(record["curve"], level)
            for record, level in zip(records, scratch, strict=True)
        ]
        table[arm] = {
            "lr": records[0]["lr"],
            "seeds": [r["seed"] for r in records],
            **{k: {"mean": statistics.mean(v), "all": v} for k, v in ends.items()},
            "steps_to_scratch_end": reach,
        }
    return {
        "student": arguments.student,
        "steps": arguments.steps,
        "batch": 128,
        "measured_on": "Twemoji, unseen style; mean of both directions in percent",
        "teacher": runs["inherited"][0]["teacher"],
        "arms": table,
        "curves": {arm: [r["curve"] for r in records] for arm, records in runs.items()},
    }


def search_rates(rates: list[float], score: Callable[[float], float]) -> dict[float, float]:
    """Hill-climb over sorted learning rates, starting with the middle ones.

    Returns the score of every rate tried; the neighbours of the best one are among them.
    """
    rates = sorted(rates)
    scores: dict[float, float] = {}
    for lr in rates[(len(rates) - 1) // 2 : len(rates) // 2 + 1]:
        scores[lr] = score(lr)
    while True:
        best = rates.index(max(scores, key=lambda lr: scores[lr]))
        near = [rates[i] for i in (best - 1, best + 1) if 0 <= i < len(rates)]
        untried = [lr for lr in near if lr not in scores]
        if not untried:
            return scores
        for lr in untried:
            scores[lr] = score(lr)


def stored_figure(records: list[dict[str, Any]], steps: int, command: str) -> dict[str, Any]:
    """Return the results from scratch that ``quickstart`` shows; recall@1 is a share."""
    return {
        "steps": steps,
        "recall_at_1": statistics.mean(record["last"]["t2i_r1"] for record in records),
        "seeds": len(records),
        "command": command,
    }


def public_command(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Return the command with every option that affects figures, without local paths."""
    parts = ["python", "benchmarks/distill_arms.py", "--student", arguments.student]
    parts += ["--steps", str(arguments.steps)]
    for name in ("seeds", "lrs"):
        values = getattr(arguments, name)
        if values != parser.get_default(name):
            parts += [f"--{name}", *(f"{value:g}" for value in values)]
    if arguments.rates:
        parts += ["--rates", *arguments.rates]
    return shlex.join([*parts, "--out", f"benchmarks/results/{arguments.out.name}"])


def fixed_rates(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, float]:
    """Return the learning rates set by ``--rates``, which are not tuned."""
    rates = {}
    for text in arguments.rates:
        arm, _, rate = text.partition("=")
        if arm not in ARMS:
            parser.error(f"--rates {text}: unknown arm {arm!r}; choose from {', '.join(ARMS)}")
        rates[arm] = float(rate)
    return rates


def plot(summary: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), dpi=140)
    for arm, colour in zip(ARMS, ("#0f766e", "#b45309", "#64748b"), strict=True):
        for number, curve in enumerate(summary["curves"][arm]):
            steps = sorted(map(int, curve))
            label = NAMES[arm] if number == 0 else None
            values = [max(curve[str(s)]["r1"], PLOT_FLOOR) for s in steps]
            axes.plot(steps, values, color=colour, lw=1.6, alpha=0.8, label=label)
    axes.axhline(summary["teacher"]["r1"], color="#111827", lw=1, ls="--", label="teacher")
    axes.set(xlabel="step (128 pairs each)", ylabel="recall@1, mean of both directions, %")
    axes.set_title(f"{summary['student']}: Twemoji, a style not used in training", fontsize=10)
    axes.set_yscale("log")  # the arms from random weights are far below the others
    axes.set_yticks([0.1, 1, 10, 50], ["0.1", "1", "10", "50"])
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1, 0.62))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def command_line() -> argparse.ArgumentParser:
    parser = runs_parser(__doc__, "runs/arms", steps=400)
    parser.add_argument("--student", default="starter-50", choices=RECIPES)
    parser.add_argument("--every", type=int, default=100, help="steps between measurements")
    parser.add_argument("--lrs", type=float, nargs="+", default=[2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument(
        "--rates", nargs="+", default=[], metavar="ARM=LR", help="known rates, which are not tuned"
    )
    parser.add_argument(
        "--store", type=Path, help=f"write quickstart's from_scratch.json here ({STORED_STUDENT})"
    )
    return parser


def main() -> None:
    parser = command_line()
    arguments = parser.parse_args()
    if arguments.store and arguments.student != STORED_STUDENT:
        parser.error(f"--store is for --student {STORED_STUDENT}, which quickstart distils")
    arguments.teacher = teacher_hash()

    import torch

    torch.set_num_threads(arguments.threads)
    best = fixed_rates(arguments, parser)
    scores_by_arm: dict[str, dict[str, float]] = {}
    last = str(arguments.steps)
    for arm in (arm for arm in ARMS if arm not in best):

        def score(lr: float, arm: str = arm) -> float:
            record = train(arguments, arm, lr, TUNING_SEED, "starter:val")
            return float(record["curve"][last]["r1"])

        scores = search_rates(arguments.lrs, score)
        best[arm] = max(scores, key=lambda lr: scores[lr])
        scores_by_arm[arm] = {f"{lr:g}": score for lr, score in scores.items()}
    shard = str(twemoji_shard(arguments.work))
    runs = {
        arm: [train(arguments, arm, best[arm], seed, shard) for seed in arguments.seeds]
        for arm in ARMS
    }
    summary = summarise(arguments, runs) | {"tried_on_val": scores_by_arm}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    plot(summary, arguments.out.with_suffix(".png"))
    if arguments.store:
        figure = stored_figure(runs["scratch"], arguments.steps, public_command(arguments, parser))
        arguments.store.write_text(json.dumps(figure, indent=1) + "\n")
    for arm, row in summary["arms"].items():
        print(f"{NAMES[arm]:38} lr {row['lr']:<7g} r@1 {row['r1']['mean']:.1f}  {row['r1']['all']}")
    print(f"{'teacher':38} r@1 {summary['teacher']['r1']:.1f}")


if __name__ == "__main__":
    main()
