"""Does importance for a domain pay? General calibration, the domain's, and both, at equal steps.

Students with 15 % of the starter teacher's encoder parameters learn from the pictures of one
domain of the starter kit (animals and nature; food and drink). The units that they inherit are
chosen by importance on the pairs of the whole kit, on unpaired pictures and names of the domain, or
on both with equal weights. Recall is measured on Twemoji, a style not used in training: on the
domain, and on all concepts, to see how much general knowledge is left. Finished runs are kept, so
that the same command continues after an interruption.

    python benchmarks/domain_importance.py --out benchmarks/results/domain-importance.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from arms import Record, Row, gains, measure, prepare
from kept_runs import (
    cached_run,
    evaluated_at_end,
    finished_student,
    kit_shard,
    recalls_of,
    runs_parser,
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


def write_domain(work: Path, domain: str) -> dict[str, Path]:
    """Write a domain's training pairs, its names (one per line) and its Twemoji pictures."""
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


def row(records: list[Record], baseline: list[Record]) -> Row:
    everything = [record["general"]["r1"] for record in records]
    return {
        "encoder_parameters": records[0]["encoder_parameters"],
        **gains(records, baseline),  # compared with general calibration
        "r1_before_training": [record["curve"]["0"]["r1"] for record in records],
        "all_concepts_r1": everything,
        "all_concepts_r1_mean": round(statistics.mean(everything), 2),
    }


def main() -> None:
    parser = runs_parser(__doc__, "runs/domain-importance", steps=150)
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    arguments = parser.parse_args()

    arguments.val = prepare(arguments, {"steps": arguments.steps})
    results: dict[str, Any] = {
        "steps": arguments.steps, "batch": BATCH, "measured_on": "Twemoji", "domains": {},
    }  # fmt: skip
    for domain in arguments.domains:
        files = write_domain(arguments.work, domain)
        rows = results["domains"].setdefault(domain, {})

        def train_arm(
            arm: str, seed: int, domain: str = domain, files: dict[str, Path] = files
        ) -> Record:
            return train(arguments, files, domain, arm, seed)

        measure(arguments, ARMS, train_arm, row, results=results, rows=rows)


if __name__ == "__main__":
    main()
