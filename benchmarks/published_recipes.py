"""Cost of the published recipes as ``distill NAME --dry-run`` counts it, and their accuracies.

Operations are counted with the teacher run on every pair and texts at full context, and divided by
a rate that was measured on an H100 in bfloat16. Nothing is trained, and no data are needed.

    python benchmarks/published_recipes.py --out benchmarks/results/published-recipes.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from machine import machine_facts
from written import print_result

TFLOPS = 114  # of one device
RECIPES = Path(__file__).parents[1] / "configs/runs"
# Configuration -> zero-shot top-1 on ImageNet in per cent as published (arXiv 2309.12314), of each
# stage for which a figure is published.
PAPER = {
    "tinyclip-vit-39m-16": ("63.5",),
    "tinyclip-vit-8m-16": ("41.1",),
    "tinyclip-vit-40m-32": ("62.4 (61M)", "59.8"),
    "tinyclip-resnet-19m": ("59.1 (30M)", "56.4"),
    "tinyclip-auto-63m-32": ("63.9",),
    "tinyclip-auto-45m-32": ("61.4",),
    "tinyclip-auto-22m-32": ("53.7",),
}


def plan(name: str) -> dict[str, Any]:
    """Return what a dry run of a packaged configuration plans.

    It ends with an error where the data are missing, after its plan.
    """
    command = ("-m", "tinyclip_edge", "distill", name, "--dry-run", "--json")
    done = subprocess.run(
        [sys.executable, *command, "--tflops", str(TFLOPS)],
        check=False,
        capture_output=True,
        text=True,
    )
    if not done.stdout:
        raise SystemExit(f"{name}: {done.stderr}")
    teacher = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))["teacher"]
    return {**json.loads(done.stdout), "teacher": " ".join(teacher.values())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = {
        "tflops": TFLOPS,
        "plans": {name: {**plan(name), "paper": list(top1)} for name, top1 in PAPER.items()},
        "machine": machine_facts(),
    }
    print_result(results, options.out)


if __name__ == "__main__":
    main()
