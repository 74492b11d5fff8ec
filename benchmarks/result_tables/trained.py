"""Tables of students that are trained on the starter kit."""

from __future__ import annotations

import statistics
from typing import Any

from result_tables.table import Result, Table, bold, each, millions, of_seeds, percent, rows

SHIPPED = {"all three", "importance"}
OPTIONS = {
    "all three": "all three losses (`loss.contrastive: 1`)",
    "all three, feature 1000, rate 1e-3": "all three, `loss.feature: 1000`, `optim.lr: 1.0e-3`",
    "all three, feature 1000": "all three, `loss.feature: 1000`",
    "temperature 0.5": "`teacher.temperature: 0.5`",
    "temperature 2": "`teacher.temperature: 2`",
    "interactive": "`loss.interactive: 1`",
    "hard negatives 10": "`loss.affinity_hard_negative: 10`",
    "average 0.99": "`optim.ema: 0.99`",
    "average 0.998": "`optim.ema: 0.998`",
    "sigmoid affinity": "`loss.affinity: {kind: sigmoid}`",
    "sigmoid labels": "`loss.sigmoid: 1`, learned scale and bias",
    "learned scale": "learned scale alone",
    "all three, sigmoid labels": "all three, and `loss.sigmoid: 1`",
    "matryoshka": "`loss.matryoshka: [32, 64, 128]`",
    "all three, interactive, average 0.99": "all three, interactive, `optim.ema: 0.99`",
}
WAYS = {
    "masks": "learnt masks (`starter-masks`)",
    "uniform": "uniform (`starter`)",
    "three stages": "three stages (`starter-stages`)",
    "one stage": "one stage to the same shape",
}

STEPS = {"plain": "plain loop", "live": "live teacher", "cached": "cached features"}


def _named(name: str) -> str:
    return f"{name} (shipped)" if name in SHIPPED else name


def _best(variants: dict[str, Any]) -> str:
    return max(variants, key=lambda name: statistics.mean(variants[name]["r1"]))


def arms(*students: Result) -> str:
    """Return inheritance, affinity and neither, one row per student."""
    names = ("inherited", "affinity", "scratch")
    body = []
    for result in students:
        recalls = [result["arms"][name]["r1"]["all"] for name in names]
        best = max(recalls, key=statistics.mean)
        cells = [of_seeds(values, best=values is best) for values in recalls]
        body.append([f"`{result['student']}`", result["steps"], *cells])
    head = ("inherited + affinity", "random + affinity", "random + contrastive")
    return rows(("student", "steps", *head), body)


def steps_to_scratch(*students: Result) -> str:
    """Return, by seed, the steps after which an arm reaches the final recall from scratch."""
    names = {"inherited": "inherited + affinity", "affinity": "random + affinity"}
    body = [
        [
            f"`{result['student']}`", f"{result['steps']:,}",
            *(
                ", ".join("never" if step is None else f"{step:.0f}"
                          for step in result["arms"][name]["steps_to_scratch_end"])
                for name in names
            ),
        ]
        for result in students
    ]  # fmt: skip
    return rows(("student", "steps from scratch", *names.values()), body)


def losses(result: Result) -> str:
    variants = result["losses"]
    ordered = sorted(variants, key=lambda name: statistics.mean(variants[name]["r1"]))
    body = [
        (
            _named(name),
            of_seeds(variants[name]["r1"], best=name == _best(variants)),
            f"{variants[name]['r5_mean']:.1f}",
        )
        for name in ordered
    ]
    return rows(("loss", "recall@1", "recall@5"), body)


def plans(result: Result) -> str:
    variants = result["plans"]
    body = [
        (
            f"`{name}`{' (shipped)' * (name in SHIPPED)}",
            f"{row['r1_before']:.1f}",
            of_seeds(row["r1"], best=name == _best(variants)),
            f"{row['r5_mean']:.1f}",
        )
        for name, row in variants.items()
    ]
    return rows(("plan", "before the first step", "recall@1", "recall@5"), body)


def loss_options(result: Result) -> str:
    best = _best(result["arms"])
    body = [
        (
            OPTIONS.get(name, name),
            bold(f"{row['r1_mean']:.2f}", name == best),
            f"{row['r5_mean']:.2f}",
            f"{row['gain_mean']:+.2f} ({each(row['gain'], '+.1f')})",
        )
        for name, row in result["arms"].items()
    ]
    return rows(("option", "recall@1", "recall@5", "gain (by seed)"), body)


def prefixes(result: Result) -> str:
    arms = {name: row for name, row in result["arms"].items() if "r1_by_dimensions" in row}
    lengths = list(next(iter(arms.values()))["r1_by_dimensions"])
    body = [
        (OPTIONS.get(name, name), *(f"{row['r1_by_dimensions'][n]:.1f}" for n in lengths))
        for name, row in arms.items()
    ]
    return rows(("recall@1 by dimensions", *lengths), body)


def mapped(*results: Result) -> str:
    body = []
    for result in results:
        after = str(round(result["map_share"] * result["steps"]))
        for student, plans in result["students"].items():
            for plan, row in plans.items():
                by_step = row["r1_mean_by_step"]
                body.append((
                    f"{student}, {millions(row['encoder_parameters'])} M",
                    result["steps"],
                    f"`{plan}`",
                    f"{by_step['0']:.2f}",
                    f"{by_step[after]:.1f}" if after in by_step else "",
                    of_seeds(row["r1"], best=min(row["gain"]) > 0),
                    f"{row['r5_mean']:.1f}",
                ))  # fmt: skip
    head = ("student", "steps", "plan", "before", "after a fifth", "recall@1", "recall@5")
    return rows(head, body)


def paths(*results: Result) -> str:
    """Return ways to shrink a teacher; the first row is the teacher."""
    body: list[tuple[object, ...]] = [("teacher", "", "", f"{results[0]['teacher']['r1']:.1f}")]
    body += [
        (
            WAYS[way],
            " and ".join(dict.fromkeys(map(millions, row["encoder_parameters"]))) + " M",
            row["steps"],
            of_seeds(row["all"]),
        )
        for result in results
        for way, row in result["ways"].items()
    ]
    return rows(("way", "encoder parameters", "steps", "recall@1"), body)


def training_speed(result: Result) -> str:
    modes = result["modes"]
    least = min(modes, key=lambda name: modes[name]["cpu_seconds"])
    body = [
        (
            STEPS.get(name, name),
            f"{mode['cpu_seconds']:.1f}",
            bold(f"{mode['times_fewer_cpu_seconds']:.2f}", name == least),
            f"{mode['peak_bytes'] / 1e9:.2f} GB",
        )
        for name, mode in modes.items()
    ]
    return rows(("step", "CPU-seconds", "times fewer", "peak memory"), body)


def training_speed_gpu(result: Result) -> str:
    body = [
        (
            STEPS.get(name, name),
            f"{mode['samples_per_s']:,.0f}",
            f"{mode['samples_per_s'] / result['modes']['plain']['samples_per_s']:.1f}",
            f"{mode['peak_device_bytes'] / 1e9:.1f} GB",
            percent(mode["share_of_matrix_rate"]),
        )
        for name, mode in result["modes"].items()
    ]
    head = ("step", "pairs/s", "times as fast", "device memory", "share of the bf16 matrix rate")
    return rows(head, body)


def shipped_15(result: Result) -> tuple[str, str, str]:
    """Return the front page's row about the small student."""
    teacher, student = result["teacher"], result["runs"]["starter-15"]
    share = student["encoder_parameters"] / teacher["encoder_parameters"]
    kept = statistics.mean(student["t2i_r1"]) / teacher["t2i_r1"]
    return (
        f"student with {percent(share)}, {student['steps']:,} steps",
        f"{percent(kept)} of the teacher's recall@1 ({of_seeds(student['t2i_r1'])} of "
        f"{teacher['t2i_r1']:.1f})",
        "`tinyclip-edge distill starter-15`",
    )


def shipped_precisions(result: Result) -> str:
    body = [
        (name.removeprefix("starter, "), of_seeds(row["t2i_r1"]), of_seeds(row["i2t_r1"]))
        for name, row in result["runs"].items()
        if name.startswith("starter, ")
    ]
    return rows(
        ("starter, test of unseen style", "text→image recall@1", "image→text recall@1"), body
    )


def equal_time(result: Result) -> str:
    body = [
        (name, each(row["seconds"], ".0f"), each(row["steps"], ".0f"), of_seeds(row["r1"]))
        for name, row in result["arms"].items()
    ]
    return rows(("", "seconds", "steps", "recall@1"), body)


def published_recipes(result: Result) -> str:
    """Return a row for each recipe: pairs of all stages and hours of a device."""
    body = []
    for name, plan in result["plans"].items():
        stages = plan["stages"]
        count = stages[0]["samples"]
        pairs = f"{count / 1e6:.0f} M" if count < 1e9 else f"{count / 1e9:.1f} G"
        times = "" if len(stages) == 1 else f"{len(stages)} × "
        hours = f"{plan['device_hours']:.0f}"
        body.append((f"`{name}`", plan["teacher"], times + pairs, hours, ", ".join(plan["paper"])))
    return rows(("configuration", "teacher", "pairs", "device hours", "paper"), body)


TABLES = {
    "published-recipes": Table(published_recipes, ("published-recipes.json",)),
    "shipped-precisions": Table(shipped_precisions, ("shipped-runs.json",)),
    "equal-time": Table(equal_time, ("equal-time.json",)),
    "arms-long": Table(arms, ("arms-50-long.json", "arms-15-long.json")),
    "arms-long-steps": Table(steps_to_scratch, ("arms-50-long.json", "arms-15-long.json")),
    "paths-no-layer-drop": Table(paths, ("half-no-layer-drop.json", "quarter-no-layer-drop.json")),
    "arms": Table(arms, ("arms-50.json", "arms-15.json")),
    "arms-steps": Table(steps_to_scratch, ("arms-50.json", "arms-15.json")),
    "losses": Table(losses, ("starter-ablation.json",)),
    "plans": Table(plans, ("starter-ablation.json",)),
    "loss-options": Table(loss_options, ("loss-options.json",)),
    "loss-options-prefixes": Table(prefixes, ("loss-options.json",)),
    "mapped": Table(mapped, ("mapped-inheritance.json", "mapped-inheritance-300.json")),
    "paths": Table(paths, ("half.json", "quarter.json")),
    "training-speed": Table(training_speed, ("training-speed.json",), timed=True),
    "training-speed-gpu": Table(training_speed_gpu, ("training-speed-gpu.json",)),
}
