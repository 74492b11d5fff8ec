"""Options of loss and optimizer on the starter kit: same steps and batches, one change per arm.

Each arm trains ``starter`` from the same inherited weights with affinity and feature loss and one
added option. Recall is measured on Twemoji, a style not used in training; Matryoshka arms are also
compared on prefixes of the embedding. The teacher has no bias of its own, so arms with a sigmoid
use the bias with which its probabilities in a batch add up to one text per picture. Finished runs
are kept, so that the same command continues after an interruption.

    python benchmarks/loss_options.py --out benchmarks/results/loss-options.json

``--second-teacher MODEL``, such as an earlier student of another loss, adds arms with two teachers.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from arms import (
    WITHOUT_FEATURES,
    Record,
    Row,
    arm_run,
    at_end,
    folder_name,
    gains,
    measure,
    prepare,
)
from kept_runs import finished_student, mean_recalls, runs_parser, validated

BASELINE = "affinity and feature"
UNLABELLED = "loss.contrastive=0"
LEARNED = ["loss.student_logit_scale=learned", "loss.student_logit_bias=learned"]
PREFIXES = [32, 64, 128]
OPTIONS: dict[str, list[str]] = {
    BASELINE: [],
    "all three": ["loss.contrastive=1"],
    "all three, feature 1000, rate 1e-3": [
        "loss.contrastive=1", "loss.feature=1000", "optim.lr=1e-3",
    ],
    "all three, feature 1000": ["loss.contrastive=1", "loss.feature=1000"],
    "temperature 0.5": ["teacher.temperature=0.5"],
    "temperature 2": ["teacher.temperature=2"],
    "interactive": ["loss.interactive=1"],
    "hard negatives 10": ["loss.affinity_hard_negative=10"],
    "hard negatives 50, positives 2": [
        "loss.affinity_hard_negative=50", "loss.affinity_hard_positive=2",
    ],
    "average 0.99": ["optim.ema=0.99"],
    "average 0.998": ["optim.ema=0.998"],
    "sigmoid affinity": ["loss.affinity_kind=sigmoid", *LEARNED],
    "sigmoid labels": ["loss.sigmoid=1", *LEARNED],
    "learned scale": ["loss.student_logit_scale=learned"],
    "all three, sigmoid labels": ["loss.contrastive=1", "loss.sigmoid=1", *LEARNED],
    "matryoshka": [f"loss.matryoshka={PREFIXES}"],
    "all three, interactive, average 0.99": [
        "loss.contrastive=1", "loss.interactive=1", "optim.ema=0.99",
    ],
}  # fmt: skip
ARMS = {name: [UNLABELLED, *options] for name, options in OPTIONS.items()}
WITH_PREFIXES = (BASELINE, "matryoshka")


def two_teachers(second: str) -> dict[str, list[str]]:
    def arm(temperature: float, mean: str) -> list[str]:
        member = {"model": second, "temperature": temperature}
        ensemble = f"teacher.ensemble=[{json.dumps(member)}]"
        return [UNLABELLED, ensemble, f"loss.affinity_mean={mean}", *WITHOUT_FEATURES]

    # Joined features are wider than the student's, so a feature term would train a projector.
    return {
        "one teacher, affinity alone": [UNLABELLED, *WITHOUT_FEATURES],
        "two teachers, logits": arm(1.0, "logits"),
        "two teachers, probabilities": arm(1.0, "probabilities"),
        "two teachers, probabilities, second at temperature 2": arm(2.0, "probabilities"),
    }


def balanced_bias(batch: int) -> float:
    """Return the bias with which the teacher's sigmoids in a batch add up to one per row."""
    import torch

    from tinyclip_edge.config import load_config
    from tinyclip_edge.data import PairMemory, open_source
    from tinyclip_edge.models import load_clip
    from tinyclip_edge.train.tasks.encoders import pixel_codec
    from tinyclip_edge.train.tasks.teacher import Teacher

    clip = load_clip(load_config("starter", []).teacher.model)
    codec = pixel_codec(clip)
    pairs = PairMemory.load(open_source("starter:val"), codec, limit=8 * batch)
    teacher = Teacher(clip, codec, device=torch.device("cpu"))
    batches = pairs.batches(0, batch, seed=0, distinct=True)
    logits = torch.stack([teacher.scale * torch.matmul(image, text.T) for image, text in (
        teacher.features_of(next(batches)) for _ in range(4)
    )]).double()  # fmt: skip
    low, high = -1000.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        rows = (logits + middle).sigmoid().sum(dim=-1).mean()
        low, high = (low, middle) if rows > 1 else (middle, high)
    return round(middle, 3)


def train(arguments: argparse.Namespace, name: str, seed: int, val: str) -> Record:
    bias = f"loss.teacher_logit_bias={arguments.bias}"
    record = arm_run(arguments, name, seed, [*arguments.arms[name], bias], val)
    if name in WITH_PREFIXES:
        record["prefixes"] = prefix_recalls(arguments.work, folder_name(name, seed), val)
    return record


def prefix_recalls(work: Path, run: str, val: str) -> dict[str, float]:
    """Return mean recall@1 of a finished student by the length of its embeddings."""
    from torch.nn.functional import normalize

    path = work / f"{run}.prefixes.json"
    if path.exists():
        stored: dict[str, float] = json.loads(path.read_text())
        return stored
    validation, features = validated(finished_student(work, run), val)
    recalls = {}
    for length in (*PREFIXES, features[0].shape[1]):
        cut = [normalize(each[:, :length], dim=-1) for each in features]
        recalls[str(length)] = mean_recalls(validation.accuracies(*cut))["r1"]
    path.write_text(json.dumps(recalls))
    return recalls


def row(records: list[Record], baseline: list[Record]) -> Row:
    r5 = round(statistics.mean(at_end(records, "r5")), 2)
    result = gains(records, baseline) | {"r5_mean": r5}
    if "prefixes" in records[0]:
        result["r1_by_dimensions"] = {
            length: round(statistics.mean(record["prefixes"][length] for record in records), 2)
            for length in records[0]["prefixes"]
        }
    return result


def main() -> None:
    parser = runs_parser(__doc__, "runs/loss-options", steps=400)
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="some of the arms only")
    parser.add_argument("--second-teacher", metavar="MODEL")
    arguments = parser.parse_args()
    second = arguments.second_teacher
    arms = ARMS if second is None else ARMS | two_teachers(second)
    chosen = arguments.arms or list(arms)
    if unknown := set(chosen) - set(arms):
        parser.error(f"unknown arm {', '.join(sorted(unknown))}; choose from: {'; '.join(arms)}")
    arguments.arms = {name: arms[name] for name in arms if name in {BASELINE, *chosen}}

    batch = 128
    val = prepare(arguments, {"steps": arguments.steps, "second teacher": second})
    arguments.bias = balanced_bias(batch)
    results: dict[str, Any] = {
        "steps": arguments.steps, "batch": batch, "measured_on": "Twemoji",
        "teacher_logit_bias": arguments.bias, "arms": {},
    }  # fmt: skip

    def trained(name: str, seed: int) -> Record:
        record = train(arguments, name, seed, val)
        results["teacher"] = record["teacher"]
        return record

    measure(arguments, arguments.arms, trained, row, results=results, rows=results["arms"])


if __name__ == "__main__":
    main()
