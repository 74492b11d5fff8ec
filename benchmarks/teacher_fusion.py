"""Two teachers weighted per sample, against their plain mean and against each teacher alone.

The first teacher is the shipped one. The second learns from it, and from captions, for a few
minutes on the kit's icons alone, so that it knows icons better than emoji. Then each arm trains
``starter`` from the same inherited weights on the same batches, with affinity alone, because joined
features are wider than the student's. Recall is measured on Twemoji, a style not used in training.
Finished runs are kept, so that the same command continues after an interruption.

    python benchmarks/teacher_fusion.py --out benchmarks/results/teacher-fusion.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from arms import WITHOUT_FEATURES, Record, Row, arm_run, gains, measure, prepare
from kept_runs import cached_run, evaluated_at_end, finished_student, kit_shard, runs_parser

ALONE = (*WITHOUT_FEATURES, "loss.contrastive=0")
BASELINE = "two teachers, mean"
SECOND_PART = "icon"  # kind of the pictures that the second teacher learns from
# Weight of the second teacher that makes the first one, from which all inherit, negligible.
ONLY = 1e6


def second_teacher(arguments: argparse.Namespace, val: str) -> str:
    """Return the folder of the second teacher, which is trained once for all seeds."""
    from tinyclip_edge.config import load_config

    part, _ = kit_shard(
        arguments.work / f"{SECOND_PART}.tar", "train", lambda about: about["kind"] == SECOND_PART
    )
    overrides = [
        *evaluated_at_end(arguments.second_steps, 100, val),
        f"data.train={part}",
        f"data.feature_cache={arguments.work / 'features' / SECOND_PART}",
        "loss.contrastive=1",
        *WITHOUT_FEATURES,
    ]
    folder = arguments.work / "second-teacher"
    cached_run(load_config("starter", overrides), folder, {"arm": "second teacher", "seed": 100})
    return str(finished_student(arguments.work, folder.name))


def arms_of(second: str) -> dict[str, list[str]]:
    """Return the overrides of each arm."""

    def fused(fusion: str, mean: str = "logits", weight: float = 1.0) -> list[str]:
        member = json.dumps({"model": second, "weight": weight})
        return [
            *ALONE, f"teacher.ensemble=[{member}]", f"teacher.fusion={fusion}",
            f"loss.affinity_mean={mean}",
        ]  # fmt: skip

    return {
        BASELINE: fused("mean"),
        "first teacher alone": list(ALONE),
        "second teacher alone": fused("mean", weight=ONLY),
        "mean of probabilities": fused("mean", "probabilities"),
        "confidence": fused("confidence"),
        "confidence, probabilities": fused("confidence", "probabilities"),
        "learned": fused("learned"),
        "learned, probabilities": fused("learned", "probabilities"),
    }


def row(records: list[Record], baseline: list[Record]) -> Row:
    """Return an arm's recalls, and its gains over the plain mean with the same seed."""
    result = gains(records, baseline)
    spread = statistics.stdev(result["gain"]) if len(records) > 1 else None
    return {**result, "gain_stdev": spread and round(spread, 2)}


def main() -> None:
    """Train what is missing and write the table."""
    parser = runs_parser(__doc__, "runs/teacher-fusion", steps=400)
    parser.add_argument("--second-steps", type=int, help="second teacher's steps", default=None)
    arguments = parser.parse_args()
    arguments.second_steps = arguments.second_steps or arguments.steps

    settings = {
        "steps": arguments.steps, "second steps": arguments.second_steps,
        "second part": SECOND_PART,
    }  # fmt: skip
    val = prepare(arguments, settings)
    arms = arms_of(second_teacher(arguments, val))
    results: dict[str, Any] = {**settings, "measured_on": "Twemoji", "arms": {}}

    def train(name: str, seed: int) -> Record:
        return arm_run(arguments, name, seed, arms[name], val)

    measure(arguments, arms, train, row, results=results, rows=results["arms"])


if __name__ == "__main__":
    main()
