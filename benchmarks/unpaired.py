"""Distillation with and without captions on the starter kit: same pictures, steps and weights.

Each arm trains ``starter`` from the same inherited weights; unpaired arms draw the same captions
independently of the pictures and therefore have no contrastive loss. Recall is measured on Twemoji,
a style not used in training; an unpaired student's share is relative to the paired student with the
same seed. Finished runs are kept, so that the same command continues after an interruption.

    python benchmarks/unpaired.py --out benchmarks/results/unpaired.json
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from arms import WITHOUT_FEATURES, Record, Row, arm_run, at_end, measure, prepare
from kept_runs import runs_parser

PAIRS = "starter:train"
BASELINE = "paired"


def arms(texts: Path) -> dict[str, list[str]]:
    """Return the overrides of each arm; ``texts`` is the file of all captions."""
    unlabelled = "loss.contrastive=0"
    unpaired = [unlabelled, "data.train=null", f"data.images={PAIRS}", f"data.texts={texts}"]
    mix = [{"pairs": PAIRS}, {"images": PAIRS, "texts": str(texts)}]
    return {
        BASELINE: [],
        "paired, affinity and feature": [unlabelled],
        "paired, affinity alone": [unlabelled, *WITHOUT_FEATURES],
        "unpaired": unpaired,
        "unpaired, feature alone": [*unpaired, "loss.affinity=0"],
        "unpaired, temperature 2": [*unpaired, "teacher.temperature=2"],
        "unpaired, affinity 0.2": [*unpaired, "loss.affinity=0.2"],
        "unpaired, affinity alone": [*unpaired, *WITHOUT_FEATURES],
        "half paired, half unpaired": [
            unlabelled, "data.train=null", "data.feature_cache=null",
            f"data.mix={json.dumps(mix)}",
        ],
        "pictures alone": [
            unlabelled, "data.train=null", f"data.images={PAIRS}", "loss.affinity=0",
            "inherit.text=frozen",
            "student.model={vision_cfg: {width: 256, layers: 3}}",
        ],
    }  # fmt: skip


def captions_file(folder: Path) -> Path:
    """Write every caption of the kit's training split once, one per line."""
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    path = folder / "captions.txt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        samples = read_split(kit_path(), "train")
        captions = dict.fromkeys(text for sample in samples for text in sample.captions)
        path.write_text("\n".join(captions) + "\n")
    return path


def row(records: list[Record], baseline: list[Record]) -> Row:
    last, paired = at_end(records, "r1"), at_end(baseline, "r1")
    shares = [
        100 * ours / theirs if theirs else 0.0 for ours, theirs in zip(last, paired, strict=True)
    ]
    return {
        "seeds": [record["seed"] for record in records],
        "r1": last,
        "r1_mean": round(statistics.mean(last), 2),
        "share_of_paired": [round(share, 1) for share in shares],  # percent, by seed
        "share_mean": round(statistics.mean(shares), 1),
        "seconds_mean": round(statistics.mean(record["seconds"] for record in records), 1),
    }


def main() -> None:
    parser = runs_parser(__doc__, "runs/unpaired", steps=400)
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="some of the arms only")
    arguments = parser.parse_args()
    every = arms(captions_file(arguments.work).resolve())
    chosen = arguments.arms or [name for name in every if name != "pictures alone"]
    if unknown := set(chosen) - set(every):
        parser.error(f"unknown arm {', '.join(sorted(unknown))}; choose from: {'; '.join(every)}")

    val = prepare(arguments, {"steps": arguments.steps})
    results: dict[str, Any] = {"steps": arguments.steps, "measured_on": "Twemoji", "arms": {}}

    def train(name: str, seed: int) -> Record:
        record = arm_run(arguments, name, seed, every[name], val)
        results["teacher"] = record["teacher"]
        return record

    names = [name for name in every if name in {BASELINE, *chosen}]
    measure(arguments, names, train, row, results=results, rows=results["arms"])


if __name__ == "__main__":
    main()
