"""A natural-image student in PyTorch and in every precision of its bundle: top-1, bytes, time.

    tinyclip-edge export runs/natural/arms/inherited-seed0/student --int8 --precision q4 \\
        --precision w8 --data runs/natural/data/choose.tar --max-drop 3 --out runs/natural/bundle
    python benchmarks/natural_precisions.py --student runs/natural/arms/inherited-seed0/student \\
        --bundle runs/natural/bundle --images runs/natural/data/report-classes.tar --out out.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from machine import machine_facts
from natural_data import PROMPT

TEXT = "a photo of a goldfish"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", required=True, help="folder or tar, one folder per class")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    from tinyclip_edge.evaluation import open_embedder
    from tinyclip_edge.evaluation.latency import measure_latency
    from tinyclip_edge.evaluation.report import ZERO_SHOT, evaluate_model
    from tinyclip_edge.runtime.bundle import Manifest

    models = {"PyTorch": open_embedder(arguments.student, threads=1)}
    for precision in Manifest.read(arguments.bundle).precisions():
        models[precision] = open_embedder(str(arguments.bundle), precision=precision, threads=1)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    times = measure_latency(models, [picture], [TEXT], threads=1, rounds=arguments.rounds)
    rows: dict[str, Any] = {}
    for name, model in models.items():
        report = evaluate_model(
            model, task=ZERO_SHOT, data=arguments.images, templates=(PROMPT,), limit=arguments.limit
        )
        zero_shot = report.rows[0].zero_shot
        assert zero_shot is not None
        rows[name] = {
            "top1": round(100 * zero_shot.top1, 2),
            "stderr": round(100 * zero_shot.stderr, 2),
            "top5": round(100 * zero_shot.top5, 2),
            "images": zero_shot.n,
            "bytes": model.spec.bytes_on_disk,
            "image": asdict(times[name].image),
            "text": asdict(times[name].text),
        }
        print(name, rows[name], flush=True)
        results = {"machine": machine_facts(), "threads": 1, "batch": 1, "models": rows}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
