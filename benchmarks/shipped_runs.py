"""Results of the shipped recipes: the 15 % student, and the quickstart's in fp32 and bf16.

Each is trained as configured and evaluated on the unseen style like ``tinyclip-edge eval``. Without
instructions for bf16 its run would take an hour, and is left out unless ``--runs`` names it.
Finished runs are kept, so that the same command continues after an interruption.

    python benchmarks/shipped_runs.py --out benchmarks/results/shipped-runs.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kept_runs import cached_run, evaluated_at_end, finished_student, runs_parser, teacher_hash

RUNS: dict[str, tuple[str, list[str]]] = {
    "starter-15": ("starter-15", []),
    "starter, fp32": ("starter", ["run.precision=fp32"]),
    "starter, bf16": ("starter", ["run.precision=bf16"]),
}
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and Arm


def default_runs() -> list[str]:
    """Return the runs that take minutes on this processor."""
    from tinyclip_edge.runtime.cpu import cpu_flags

    slow = not BF16_FLAGS & cpu_flags()
    return [name for name in RUNS if not (slow and name.endswith("bf16"))]


def evaluated(model: str) -> dict[str, float]:
    """Return recall@1 of both directions on the unseen style, with standard errors, in percent."""
    from tinyclip_edge.evaluation import evaluate_model, open_embedder

    retrieval = evaluate_model(open_embedder(model), companions=False).rows[0].retrieval
    assert retrieval is not None
    return {
        "t2i_r1": round(100 * retrieval.t2i[1], 3),
        "i2t_r1": round(100 * retrieval.i2t[1], 3),
        "stderr": round(100 * retrieval.t2i_stderr[1], 3),
    }


def train(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train a recipe with its own steps, or read its record; add the results of ``eval``."""
    from tinyclip_edge.config import load_config

    recipe, overrides = RUNS[name]
    steps = load_config(recipe, overrides).optim.steps
    config = load_config(recipe, [*overrides, *evaluated_at_end(steps, seed, "starter:val")])
    folder = f"{name.replace(', ', '-')}-seed{seed}-teacher{teacher_hash()}"
    record = cached_run(config, arguments.work / folder, {"run": name, "seed": seed})
    path: Path = arguments.work / f"{folder}.eval.json"
    if not path.exists():
        path.write_text(json.dumps(evaluated(str(finished_student(arguments.work, folder)))))
    figures: dict[str, float] = json.loads(path.read_text())
    return record | figures


def row(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "seeds": [record["seed"] for record in records],
        "steps": records[0]["steps"],
        "encoder_parameters": records[0]["encoder_parameters"],
        **{key: [record[key] for record in records] for key in ("t2i_r1", "i2t_r1", "seconds")},
    }


def main() -> None:
    parser = runs_parser(__doc__, "runs/shipped-runs")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=default_runs())
    arguments = parser.parse_args()
    for name in RUNS.keys() - set(arguments.runs):
        print(f"left out: {name}", flush=True)

    import torch

    from tinyclip_edge.config import load_config
    from tinyclip_edge.models import count_parameters, load_clip

    torch.set_num_threads(arguments.threads)
    teacher = load_config("starter").teacher.model
    size = count_parameters(load_clip(teacher).model).encoders
    results: dict[str, Any] = {
        "measured_on": "starter:test_style",
        "teacher": {"encoder_parameters": size, **evaluated(teacher)},
        "runs": {},
    }
    for name in arguments.runs:
        results["runs"][name] = row([train(arguments, name, seed) for seed in arguments.seeds])
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
