"""Does it pay to learn what is inherited? `mapped` against `importance`, at equal steps.

Students of the starter teacher with about 15 and 5 % of its encoder parameters are trained like
``starter-15``, from the same selected weights. In the arm ``mapped``, the first ``--map-share`` of
the steps train the mapping from the teacher's weights, the others the resulting weights. Recall is
measured on Twemoji, a style not used in training. Finished runs are kept, so that the same command
continues after an interruption.

    python benchmarks/mapped_inheritance.py --out benchmarks/results/mapped-inheritance.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from arms import Record, Row, at_end, gains, measure, prepare
from kept_runs import cached_run, evaluated_at_end, runs_parser

STUDENTS: dict[str, str | dict[str, Any]] = {
    "15 %": "starter-15",
    "5 %": {
        "vision_cfg": {"width": 64, "layers": 4, "head_width": 64, "mlp_ratio": 4.0},
        "text_cfg": {"width": 64, "layers": 2, "heads": 1, "mlp_ratio": 4.0},
    },
}
BASELINE = "importance"
ARMS = (BASELINE, "mapped")


def overrides(arguments: argparse.Namespace, student: str, arm: str) -> list[str]:
    plan = [f"inherit.plan={arm}"]
    if arm == "mapped":
        plan += [
            f"inherit.map_from={BASELINE}",
            f"inherit.map_steps={arguments.map_share}",
            f"inherit.map_lr={arguments.map_lr}",
        ]
    return [f"student.model={json.dumps(STUDENTS[student])}", "loss.contrastive=0", *plan]


def train(
    arguments: argparse.Namespace, student: str, arm: str, seed: int, val: str
) -> dict[str, Any]:
    from tinyclip_edge.config import load_config

    config = load_config(
        "starter-15",
        [
            *overrides(arguments, student, arm),
            *evaluated_at_end(arguments.steps, seed, val),
        ],
    )
    folder = f"{student.split(maxsplit=1)[0]}-{arm}-seed{seed}"
    return cached_run(
        config, arguments.work / folder, {"student": student, "arm": arm, "seed": seed}
    )


def row(records: list[Record], baseline: list[Record]) -> Row:
    steps = sorted(map(int, records[0]["curve"]))
    return {
        "encoder_parameters": records[0]["encoder_parameters"],
        **gains(records, baseline),  # compared with importance
        "r5_mean": round(statistics.mean(at_end(records, "r5")), 2),
        "r1_mean_by_step": {
            str(step): round(statistics.mean(r["curve"][str(step)]["r1"] for r in records), 2)
            for step in steps
        },
    }


def main() -> None:
    parser = runs_parser(__doc__, "runs/mapped-inheritance", steps=150)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--map-share", type=float, default=0.2)
    parser.add_argument("--map-lr", type=float, default=4e-3)
    arguments = parser.parse_args()

    settings = {"steps": arguments.steps, "map_share": arguments.map_share,
                "map_lr": arguments.map_lr}  # fmt: skip
    val = prepare(arguments, settings)
    results: dict[str, Any] = {**settings, "batch": 128, "measured_on": "Twemoji", "students": {}}
    for student in arguments.students:
        rows = results["students"].setdefault(student, {})

        def train_arm(arm: str, seed: int, student: str = student) -> Record:
            record = train(arguments, student, arm, seed, val)
            results["teacher"] = record["teacher"]
            return record

        measure(arguments, ARMS, train_arm, row, results=results, rows=rows)


if __name__ == "__main__":
    main()
