"""Loss terms and inheritance plans on the starter kit: same steps and batches, one change per arm.

``losses`` trains ``starter-50`` from the same inherited weights with affinity, contrastive and
feature terms and combinations of them; ``plans`` trains ``starter-15``, whose layers are narrower
than the teacher's, from three selections of weights. Recall is measured on Twemoji, a style not
used in training. Other settings are those of the shipped configurations, but arms without features
have their own learning rate. Finished runs are kept.

    python benchmarks/starter_ablation.py --out benchmarks/results/starter-ablation.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from arms import WITHOUT_FEATURES
from kept_runs import cached_run, evaluated_at_end, runs_parser, teacher_hash, twemoji_shard

UNLABELLED = "loss.contrastive=0"
LEARNED = "loss.student_logit_scale=learned"
LOSSES = {
    "affinity": ["loss.affinity=1", *WITHOUT_FEATURES, UNLABELLED],
    "contrastive": ["loss.affinity=0", *WITHOUT_FEATURES, "loss.contrastive=1", LEARNED],
    "feature": ["loss.affinity=0", UNLABELLED],
    "affinity + feature": ["loss.affinity=1", UNLABELLED],
    "affinity + contrastive": ["loss.affinity=1", *WITHOUT_FEATURES, "loss.contrastive=1"],
    "all three": ["loss.affinity=1", "loss.contrastive=1"],
}
PLANS = {
    plan: [f"inherit.plan={plan}", UNLABELLED] for plan in ("published", "evenly", "importance")
}
QUESTIONS = {"losses": ("starter", LOSSES), "plans": ("starter-15", PLANS)}


def train(
    arguments: argparse.Namespace, question: str, name: str, seed: int, val: str
) -> dict[str, Any]:
    from tinyclip_edge.config import load_config

    recipe, variants = QUESTIONS[question]
    config = load_config(
        recipe,
        [
            *variants[name],
            *evaluated_at_end(arguments.steps, seed, val),
        ],
    )
    word = name.replace(" + ", "-").replace(" ", "-")
    folder = f"{question}-{word}-seed{seed}-steps{arguments.steps}-teacher{teacher_hash()}"
    return cached_run(config, arguments.work / folder, {"variant": name, "seed": seed})


def row(records: list[dict[str, Any]]) -> dict[str, Any]:
    last = [record["curve"][str(record["steps"])] for record in records]
    return {
        "seeds": [record["seed"] for record in records],
        "r1": [end["r1"] for end in last],
        "r1_mean": round(statistics.mean(end["r1"] for end in last), 2),
        "r1_before": round(statistics.mean(record["curve"]["0"]["r1"] for record in records), 2),
        "r5_mean": round(statistics.mean(end["r5"] for end in last), 2),
    }


def main() -> None:
    parser = runs_parser(__doc__, "runs/ablation", steps=400, seeds=[0])
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    val = str(twemoji_shard(arguments.work))
    results: dict[str, Any] = {"steps": arguments.steps, "batch": 128, "measured_on": "Twemoji"}
    for question in arguments.questions:
        rows = results.setdefault(question, {})
        for name in QUESTIONS[question][1]:
            records = [train(arguments, question, name, seed, val) for seed in arguments.seeds]
            results["teacher"] = records[0]["teacher"]
            rows[name] = row(records)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
