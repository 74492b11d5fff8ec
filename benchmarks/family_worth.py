"""What inheritance is worth in today's families: inherited against random weights, equal steps.

For each kind of tower, a small teacher with random weights learns from the starter teacher on the
starter kit; then students with half of its blocks learn from it for a few steps, with inherited and
with random weights. Recall is measured on Twemoji, a style not used in training. Finished runs are
kept, so that the same command continues after an interruption.

    python benchmarks/family_worth.py --out benchmarks/results/family-worth.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from arms import at_end, prepare
from kept_runs import cached_run, evaluated_at_end, runs_parser

VIT = {"image_size": 64, "patch_size": 16, "width": 256, "layers": 6, "head_width": 64}
TEXT = {"context_length": 16, "width": 256, "heads": 4, "layers": 4}
# The teacher of each kind, and the depths of its students.
FAMILIES: dict[str, dict[str, Any]] = {
    "SigLIP-like: attention pooling, text that reads both ways": {
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map",
            "timm_proj": "none", "image_size": 64, "width": 256, "layers": 6, "head_width": 64,
        },
        "text_cfg": {
            **TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
        },
        "custom_text": True,
        "embed_dim": 256,
    },
    "FastViT-like: convolutions in stages": {
        "vision_cfg": {
            "timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": None,
            "timm_model_pretrained": False, "image_size": 64, "width": 32, "layers": [2, 2, 4, 2],
        },
        "text_cfg": TEXT,
        "custom_text": True,
        "embed_dim": 256,
    },
    "eos-pooled text": {
        "vision_cfg": VIT,
        "text_cfg": {**TEXT, "pool_type": "eos"},
        "embed_dim": 256,
    },
}  # fmt: skip


def halved(family: dict[str, Any]) -> dict[str, Any]:
    """Return a family's configuration with half as many blocks in each tower or stage."""

    def half(layers: int | list[int]) -> int | list[int]:
        return [each // 2 for each in layers] if isinstance(layers, list) else layers // 2

    return {
        key: {**value, "layers": half(value["layers"])} if key.endswith("_cfg") else value
        for key, value in family.items()
    }


def train(
    arguments: argparse.Namespace, name: str, seed: int, steps: int, *changes: str
) -> dict[str, Any]:
    """Distil one run, or read its record."""
    from tinyclip_edge.config import load_config

    config = load_config("starter", [*changes, *evaluated_at_end(steps, seed, arguments.val)])
    return cached_run(config, arguments.work / f"{name}-seed{seed}", {"run": name, "seed": seed})


def main() -> None:
    parser = runs_parser(__doc__, "runs/family-worth", steps=200)
    parser.add_argument("--teacher-steps", type=int, default=800)
    parser.add_argument("--families", type=int, nargs="+", help="numbers from 0; default: all")
    arguments = parser.parse_args()

    steps = {"teacher steps": arguments.teacher_steps, "steps": arguments.steps}
    arguments.val = prepare(arguments, steps)
    results: dict[str, Any] = {**steps, "measured_on": "Twemoji", "families": {}}
    for number, (name, family) in enumerate(FAMILIES.items()):
        if number not in (arguments.families or range(len(FAMILIES))):
            continue
        teacher = f"teacher{number}"
        record = train(
            arguments, teacher, 0, arguments.teacher_steps,
            f"student.model={json.dumps(family)}", "inherit.method=none",
        )  # fmt: skip
        learn = [
            f"teacher.model={arguments.work / f'{teacher}-seed0'}",
            f"student.model={json.dumps(halved(family))}",
        ]
        row: dict[str, Any] = {"teacher_r1": at_end([record], "r1")[0]}
        for method in ("uniform", "none"):
            records = [
                train(
                    arguments, f"{method}{number}", seed, arguments.steps,
                    *learn, f"inherit.method={method}",
                )
                for seed in arguments.seeds
            ]  # fmt: skip
            recalls = at_end(records, "r1")
            row[{"uniform": "inherited", "none": "random"}[method]] = {
                "r1": recalls, "r1_mean": round(statistics.mean(recalls), 2),
                "encoder_parameters": records[0]["encoder_parameters"],
            }  # fmt: skip
        results["families"][name] = row
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
