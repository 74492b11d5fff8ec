"""Does importance for a domain pay? General calibration, the domain's, and both, at equal steps.

Students with 15 % of the starter teacher's encoder parameters learn from the pictures of one
domain of the starter kit (animals and nature; food and drink). Which units they inherit is measured
on the pairs of the whole kit, on pictures and names of the domain that are no pairs, or on both
with equal weights. Recall is that of Twemoji, a style that no run trains on: of the domain, and of
all its concepts, which says how much general knowledge is left. Finished runs are kept: the same
command goes on after an interruption.

    python benchmarks/domain_importance.py --out benchmarks/results/domain-importance.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from kept_runs import (
    cached_run,
    check_settings,
    evaluated_at_end,
    finished_student,
    kit_shard,
    recalls_of,
    runs_parser,
    teacher_hash,
    twemoji_shard,
)

DOMAINS = {"animals": "animals-nature", "food": "food-drink"}  # groups of emoji
BASELINE = "general"
ARMS = (BASELINE, "domain", "mix")
BATCH = 64  # a domain has few distinct concepts


def importance(arm: str, images: Path, names: Path) -> dict[str, Any]:
    """Return ``inherit.importance`` of an arm."""
    general = {"weight": 0.5, "pairs": "starter:train"}
    domain = {"weight": 0.5, "images": str(images), "texts": str(names)}
    if arm == "mix":
        return {"general": general, "domain": domain}
    return {"general": general} if arm == BASELINE else {"domain": domain}


def prepare(work: Path, domain: str) -> dict[str, Path]:
    """Write the domain's training pairs, its names one a line, and its pictures of Twemoji."""
    group = DOMAINS[domain]

    def in_domain(about: dict[str, Any]) -> bool:
        return bool(about["kind"] == "emoji" and about["group"] == group)

    train, lines = kit_shard(work / f"{domain}-train.tar", "train", in_domain)
    names = work / f"{domain}-names.txt"
    names.write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")
    val, _ = kit_shard(
        work / f"{domain}-twemoji.tar",
        "test_style",
        lambda about: in_domain(about) and about["canonical"],
    )
    return {"train": train, "names": names, "val": val}


def train(
    arguments: argparse.Namespace, files: dict[str, Path], domain: str, arm: str, seed: int
) -> dict[str, Any]:
    from tinyclip_edge.config import load_config

    config = load_config(
        "starter-15",
        [
            f"data.train={files['train']}",
            f"inherit.importance={json.dumps(importance(arm, files['train'], files['names']))}",
            f"optim.batch_size={BATCH}",
            *evaluated_at_end(arguments.steps, seed, str(files["val"])),
        ],
    )
    name = f"{domain}-{arm}-seed{seed}"
    about = {"domain": domain, "arm": arm, "seed": seed}
    record = cached_run(config, arguments.work / name, about)
    student = finished_student(arguments.work, name)
    record["general"] = recalls_of(student, arguments.val, arguments.work / f"{name}.general.json")
    return record


def row(records: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, Any]:
    last, before = (
        [record["curve"][str(record["steps"])]["r1"] for record in group]
        for group in (records, baseline)
    )
    gains = [round(end - start, 2) for end, start in zip(last, before, strict=True)]
    return {
        "encoder_parameters": records[0]["encoder_parameters"],
        "seeds": [record["seed"] for record in records],
        "r1": last,
        "r1_mean": round(statistics.mean(last), 2),
        "r1_before_training": [record["curve"]["0"]["r1"] for record in records],
        "gain": gains,  # over the general calibration with the same seed
        "gain_mean": round(statistics.mean(gains), 2),
        "all_concepts_r1": [record["general"]["r1"] for record in records],
        "all_concepts_r1_mean": round(
            statistics.mean(record["general"]["r1"] for record in records), 2
        ),
        "seconds_mean": round(statistics.mean(record["seconds"] for record in records), 1),
    }


def main() -> None:
    parser = runs_parser(__doc__, "runs/domain-importance", steps=150)
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    check_settings(arguments.work, {"steps": arguments.steps, "teacher": teacher_hash()})
    arguments.val = str(twemoji_shard(arguments.work))
    results: dict[str, Any] = {
        "steps": arguments.steps, "batch": BATCH, "measured_on": "Twemoji", "domains": {},
    }  # fmt: skip
    for domain in arguments.domains:
        files = prepare(arguments.work, domain)
        rows = results["domains"].setdefault(domain, {})
        baseline: list[dict[str, Any]] = []
        for arm in ARMS:
            records = [train(arguments, files, domain, arm, seed) for seed in arguments.seeds]
            baseline = baseline or records
            rows["teacher"] = records[0]["teacher"]
            rows[arm] = row(records, baseline)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
