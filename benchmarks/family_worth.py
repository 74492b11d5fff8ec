"""Worth of inheritance in today's families: inherited students against random ones, equal steps.

For each kind of tower a small teacher is trained on the starter kit: its tower of this kind, from
random weights, learns from the starter teacher beside that one's other tower, which is frozen. Then
students with half of the blocks learn from it for a few steps, with inherited and with random
weights of this tower, beside the same frozen one. Recall is that of Twemoji, a style that no run
trains on. Finished runs are kept: the same command goes on after an interruption.

    python benchmarks/family_worth.py --out benchmarks/results/family-worth.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from arms import at_end, prepare
from kept_runs import cached_run, evaluated_at_end, runs_parser

# The tower of each kind, in the width of the starter teacher.
FAMILIES: dict[str, dict[str, Any]] = {
    "SigLIP-like image tower: attention pooling": {
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map",
            "timm_proj": "none", "image_size": 64, "width": 256, "layers": 6, "head_width": 64,
        },
    },
    "FastViT-like image tower: convolutions in stages": {
        "vision_cfg": {
            "timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": None,
            "timm_model_pretrained": False, "image_size": 64, "width": 32, "layers": [2, 2, 4, 2],
        },
    },
    "text tower that reads both ways, pooled at the end token": {
        "text_cfg": {
            "context_length": 16, "width": 256, "heads": 4, "layers": 4,
            "no_causal_mask": True, "pool_type": "eos", "eos_id": 9871,
        },
    },
}  # fmt: skip
BATCH = 64
# Learning rates that won for the 50 % student of the starter teacher, see arms-50.json.
RATES = {"inherited": 1e-3, "fresh": 5e-4}


def halved(family: dict[str, Any]) -> dict[str, Any]:
    """Return a tower's configuration with half as many blocks, in each stage if it has stages."""

    def half(layers: int | list[int]) -> int | list[int]:
        return [each // 2 for each in layers] if isinstance(layers, list) else layers // 2

    return {key: {**tower, "layers": half(tower["layers"])} for key, tower in family.items()}


def train(
    arguments: argparse.Namespace, name: str, seed: int, steps: int, *, teacher: str,
    tower: dict[str, Any], mode: str,
) -> dict[str, Any]:  # fmt: skip
    """Distil a run, its tower inherited or fresh by ``mode``, or read its record."""
    from tinyclip_edge.config import load_config

    trained, frozen = ("image", "text") if "vision_cfg" in tower else ("text", "image")
    config = load_config("starter", [
        f"teacher.model={teacher}", f"student.model={json.dumps(tower)}",
        f"inherit.{trained}={mode}", f"inherit.{frozen}=frozen",
        f"optim.lr={RATES[mode]}", f"optim.batch_size={BATCH}",
        f"data.feature_cache={arguments.work / 'features' / teacher.replace('/', '-')}",
        *evaluated_at_end(steps, seed, arguments.val),
    ])  # fmt: skip
    return cached_run(config, arguments.work / f"{name}-seed{seed}", {"run": name, "seed": seed})


def main() -> None:
    parser = runs_parser(__doc__, "runs/family-worth", steps=200)
    parser.add_argument("--teacher-steps", type=int, default=900)
    parser.add_argument("--families", type=int, nargs="+", help="their numbers, from 0; else all")
    arguments = parser.parse_args()

    steps = {"teacher steps": arguments.teacher_steps, "steps": arguments.steps}
    arguments.val = prepare(arguments, steps)
    results: dict[str, Any] = {**steps, "measured_on": "Twemoji", "families": {}}
    for number, (name, tower) in enumerate(FAMILIES.items()):
        if number not in (arguments.families or range(len(FAMILIES))):
            continue
        record = train(
            arguments, f"teacher{number}", 0, arguments.teacher_steps,
            teacher="starter-teacher", tower=tower, mode="fresh",
        )  # fmt: skip
        teacher = str(arguments.work / f"teacher{number}-seed0")
        row: dict[str, Any] = {"teacher_r1": at_end([record], "r1")[0]}
        for arm, mode in (("inherited", "inherited"), ("random", "fresh")):
            records = [
                train(
                    arguments, f"{arm}{number}", seed, arguments.steps,
                    teacher=teacher, tower=halved(tower), mode=mode,
                )
                for seed in arguments.seeds
            ]  # fmt: skip
            recalls = at_end(records, "r1")
            row[arm] = {
                "r1_before_training": [record["curve"]["0"]["r1"] for record in records],
                "r1": recalls, "r1_mean": round(statistics.mean(recalls), 2),
                "encoder_parameters": records[0]["encoder_parameters"],
            }  # fmt: skip
        results["families"][name] = row
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
