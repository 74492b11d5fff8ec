"""Two teachers weighed by sample, against their plain mean and against each teacher alone.

The first teacher is the shipped one. The second learns from it for a few minutes on the icons of
the kit alone, also from captions, so that it knows these better than emoji. Then each arm trains
``starter`` from the same inherited weights on the same batches, with affinity alone: joined
features are wider than the student's. Recall is that of Twemoji, a style that no run trains on.
Finished runs are kept: the same command goes on after an interruption.

    python benchmarks/teacher_fusion.py --out benchmarks/results/teacher-fusion.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from kept_runs import (
    cached_run,
    check_settings,
    evaluated_at_end,
    finished_student,
    kit_shard,
    runs_parser,
    teacher_hash,
    twemoji_shard,
)

ALONE = "loss.feature=0"
BASELINE = "two teachers, mean"
SECOND_PART = "icon"  # kind of the pictures that the second teacher learns from
ONLY = (
    1e6  # weight of the second teacher beside which the first one, that all inherit from, is none
)


def second_teacher(arguments: argparse.Namespace, val: str) -> str:
    """Return the folder of the second teacher, which is trained once for all seeds."""
    from tinyclip_edge.config import load_config

    part, _ = kit_shard(
        arguments.work / f"{SECOND_PART}.tar", "train", lambda about: about["kind"] == SECOND_PART
    )
    overrides = [
        *evaluated_at_end(arguments.second_steps, 100, val),
        f"data.train={part}",
        "loss.contrastive=1",
        ALONE,
    ]
    folder = arguments.work / "second-teacher"
    cached_run(load_config("starter", overrides), folder, {"arm": "second teacher", "seed": 100})
    return str(finished_student(arguments.work, folder.name))


def arms_of(second: str) -> dict[str, list[str]]:
    """Return the overrides of each arm."""

    def fused(fusion: str, mean: str = "logits", weight: float = 1.0) -> list[str]:
        member = json.dumps({"model": second, "weight": weight})
        return [
            ALONE, f"teacher.ensemble=[{member}]", f"teacher.fusion={fusion}",
            f"loss.affinity_mean={mean}",
        ]  # fmt: skip

    return {
        BASELINE: fused("mean"),
        "first teacher alone": [ALONE],
        "second teacher alone": fused("mean", weight=ONLY),
        "mean of probabilities": fused("mean", "probabilities"),
        "confidence": fused("confidence"),
        "confidence, probabilities": fused("confidence", "probabilities"),
        "learned": fused("learned"),
        "learned, probabilities": fused("learned", "probabilities"),
    }


def row(records: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an arm's recalls, and its gains over the mean with the same seed."""
    last, before = (
        [record["curve"][str(record["steps"])]["r1"] for record in group]
        for group in (records, baseline)
    )
    gains = [end - start for end, start in zip(last, before, strict=True)]
    return {
        "seeds": [record["seed"] for record in records],
        "r1": last,
        "r1_mean": round(statistics.mean(last), 2),
        "gain": [round(gain, 2) for gain in gains],
        "gain_mean": round(statistics.mean(gains), 2),
        "gain_stdev": round(statistics.stdev(gains), 2) if len(gains) > 1 else None,
        "seconds_mean": round(statistics.mean(record["seconds"] for record in records), 1),
    }


def main() -> None:
    """Train what is missing and write the table."""
    parser = runs_parser(__doc__, "runs/teacher-fusion", steps=400)
    parser.add_argument("--second-steps", type=int, help="of the second teacher", default=None)
    arguments = parser.parse_args()
    arguments.second_steps = arguments.second_steps or arguments.steps

    import torch

    from tinyclip_edge.config import load_config

    torch.set_num_threads(arguments.threads)
    settings = {
        "steps": arguments.steps, "second steps": arguments.second_steps,
        "teacher": teacher_hash(), "second part": SECOND_PART,
    }  # fmt: skip
    check_settings(arguments.work, settings)
    val = str(twemoji_shard(arguments.work))
    second = second_teacher(arguments, val)
    results: dict[str, Any] = {**settings, "measured_on": "Twemoji", "arms": {}}
    baseline: list[dict[str, Any]] = []
    for name, overrides in arms_of(second).items():
        word = "-".join(name.replace(",", "").split())
        records = [
            cached_run(
                load_config("starter", [*overrides, *evaluated_at_end(arguments.steps, seed, val)]),
                arguments.work / f"{word}-seed{seed}",
                {"arm": name, "seed": seed},
            )
            for seed in arguments.seeds
        ]
        baseline = baseline or records
        results["arms"][name] = row(records, baseline)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
