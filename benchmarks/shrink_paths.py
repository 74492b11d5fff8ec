"""Ways to shrink the starter teacher, at equal parameters and equal samples.

``half``: learnt masks (``starter-masks``) against uniform inheritance (``starter``).
``quarter``: three stages of 75, 50 and 25 % of the prunable parameters (``starter-stages``) against
one stage to the shape of the last. Every way is run with every seed and measured on Twemoji, a
style not used in training; ``--teacher`` sets another teacher of the same shape, such as one that
was trained without LayerDrop. Finished runs stay in ``--work`` and are not repeated.

    python benchmarks/shrink_paths.py --question half --out benchmarks/results/half.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from kept_runs import cached_run, runs_parser, teacher_hash, twemoji_shard

STEPS = {"half": 400, "quarter": 800}


def last_shape() -> str:
    """Return the final shape of the last of the three stages, as an override's value."""
    from tinyclip_edge.config import load_config

    return json.dumps(load_config("starter-stages").stages[-1].student)


def ways(question: str) -> dict[str, tuple[str, list[str]]]:
    """Return configuration and overrides by name; all ways of a question take equal steps."""
    from tinyclip_edge.config import load_config

    if question == "half":
        # With the weight and rate of `starter`, masks keep 72 % of the units where 44 % are asked.
        masks = load_config("starter-masks")
        equal = [
            f"optim.steps={STEPS[question]}",
            f"optim.lr={masks.optim.lr}",
            f"loss.feature={masks.loss.weight('feature')}",
        ]
        return {"masks": ("starter-masks", equal), "uniform": ("starter", equal)}
    single_stage = [f"student.model={last_shape()}", "stages=[]", f"optim.steps={STEPS[question]}"]
    return {"three stages": ("starter-stages", []), "one stage": ("starter-stages", single_stage)}


def run(arguments: argparse.Namespace, way: str, seed: int, val: str) -> dict[str, Any]:
    """Run one way with one seed, or read the record of an earlier call."""
    from tinyclip_edge.config import load_config

    name = f"{arguments.question}-{way.replace(' ', '-')}-seed{seed}-teacher{arguments.teacher}"
    config, overrides = ways(arguments.question)[way]
    teacher = [f"teacher.model={arguments.teacher_model}"] if arguments.teacher_model else []
    shared = [
        *teacher,
        "loss.contrastive=0",
        f"seed={seed}",
        f"data.val={val}",
        "data.val_limit=5000",
        "run.save_every=0",
    ]
    return cached_run(
        load_config(config, [*overrides, *arguments.set, *shared]),
        arguments.work / name,
        {"way": way, "seed": seed},
    )


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation of every way's last measurement, in percent."""
    table: dict[str, Any] = {}
    for way in dict.fromkeys(record["way"] for record in records):
        way_records = [record for record in records if record["way"] == way]
        ends = [record["curve"][str(record["steps"])]["r1"] for record in way_records]
        table[way] = {
            "recall_at_1": statistics.mean(ends),
            "deviation": statistics.stdev(ends) if len(ends) > 1 else None,
            "all": ends,
            "steps": way_records[0]["steps"],
            "encoder_parameters": [record["encoder_parameters"] for record in way_records],
        }
    return table


def main() -> None:
    parser = runs_parser(__doc__, "runs/paths")
    parser.add_argument("--question", choices=STEPS, required=True)
    parser.add_argument("--set", nargs="*", default=[], help="overrides for all ways")
    parser.add_argument(
        "--teacher", dest="teacher_model", metavar="MODEL", help="for all ways; default: recipe's"
    )
    arguments = parser.parse_args()
    arguments.teacher = teacher_hash(arguments.teacher_model)

    import torch

    torch.set_num_threads(arguments.threads)
    val = str(twemoji_shard(arguments.work))
    records = [
        run(arguments, way, seed, val)
        for way in ways(arguments.question)
        for seed in arguments.seeds
    ]
    table = summarise(records)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    results = {"question": arguments.question, "teacher": records[0]["teacher"], "ways": table}
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    for way, row in table.items():
        size = statistics.mean(row["encoder_parameters"])
        print(f"{way:14} r@1 {row['recall_at_1']:.1f} {row['all']}  {size:,.0f} parameters")
    print(f"{'teacher':14} r@1 {records[0]['teacher']['r1']:.1f}")


if __name__ == "__main__":
    main()
