"""Transfer of teacher and students to CIFAR-10: zero-shot, and with a linear probe.

The probe (scikit-learn) learns from every second picture of each class and is measured on the
others; its regularisation is chosen on a fifth of the former. Zero-shot is measured on all.

    python benchmarks/natural_transfer.py --cifar cifar10-test.tar \\
        --models runs/natural/teacher runs/natural/arms/tiny-seed0/student --out transfer.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tinyclip_edge.evaluation.eval_set import EvalSet

TEMPLATES = ("a photo of a {}", "a blurry photo of a {}", "a low resolution photo of a {}", "a {}")
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # C; features have unit norm
VALIDATION = 5  # every fifth training picture is used to choose C


def probe(features: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the probe's top-1 in percent, its C and the standard error."""
    from sklearn.linear_model import LogisticRegression

    from tinyclip_edge.evaluation.ranking import standard_error

    turn = np.empty(len(targets), dtype=int)
    for target in np.unique(targets):
        place = np.flatnonzero(targets == target)
        turn[place] = np.arange(len(place))
    train_half, test_half = turn % 2 == 0, turn % 2 == 1
    choose_rows = train_half & (turn % (2 * VALIDATION) == 0)
    fit_rows = train_half & ~choose_rows

    def score(strength: float, train_rows: np.ndarray, test_rows: np.ndarray) -> float:
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(features[train_rows], targets[train_rows])
        return float((model.predict(features[test_rows]) == targets[test_rows]).mean())

    best = max(STRENGTHS, key=lambda strength: score(strength, fit_rows, choose_rows))
    top1 = score(best, train_half, test_half)
    error = standard_error(top1, int(test_half.sum()))
    return {"top1": round(100 * top1, 2), "stderr": round(100 * error, 2), "C": best}


def measure(model: str, eval_set: EvalSet, threads: int | None) -> dict[str, Any]:
    from tinyclip_edge.evaluation import open_embedder
    from tinyclip_edge.evaluation.classify import zero_shot_of_features
    from tinyclip_edge.runtime.prompts import class_features

    embedder = open_embedder(model, threads=threads)
    images = embedder.encode_image(eval_set.images)
    classes = class_features(embedder, eval_set.classnames, TEMPLATES)
    zero_shot = zero_shot_of_features(images, eval_set.targets, classes)
    return {
        "encoder_parameters": embedder.spec.encoder_parameters,
        "zero_shot": {
            "top1": round(100 * zero_shot.top1, 2),
            "stderr": round(100 * zero_shot.stderr, 2),
        },
        "linear_probe": probe(images, np.asarray(eval_set.targets)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cifar", required=True, help="tar or folder of images, one folder per class"
    )
    parser.add_argument("--models", nargs="+", required=True, help="any MODEL")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    from tinyclip_edge.evaluation import evaluation_set

    evaluation = evaluation_set(arguments.cifar, limit=arguments.limit)
    rows: dict[str, Any] = {}
    for model in arguments.models:
        path = Path(model)
        name = path.parent.name if path.name == "student" else path.name
        rows[name] = measure(model, evaluation, arguments.threads)
        print(name, rows[name], flush=True)
        results = {"images": len(evaluation), "templates": TEMPLATES, "models": rows}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
