"""Bytes of whole bundles of a TinyCLIP model, by the options of ``export``.

Weights are random, so only bytes and cosines count: ranking is not judged. Every export runs in a
process of its own, passes its gates, and is calibrated as usual.

    python benchmarks/bundle_sizes.py --out benchmarks/results/bundle-sizes.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from export_latency import MODELS, VIT_8M
from machine import machine_facts
from written import print_result

CAPTIONS = "captions.txt"  # in the folder of the work: those of starter:val
# What a row says -> options of export; the last precision that they add is measured.
FORMS: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "int8": ("--int8",),
    "int8 with a 4-bit token table (`--token-bits 4`)": ("--int8", "--token-bits", "4"),
    "q4 with a 4-bit token table": ("--precision", "q4", "--token-bits", "4"),
    "q4 with a token table of 2.7 bits (`--token-bits 3`)": (
        "--precision", "q4", "--token-bits", "3",
    ),
    "int8 with the vocabulary of {captions} captions (`--trim-vocab`)": (
        "--int8", "--trim-vocab", CAPTIONS,
    ),
}  # fmt: skip
UNJUDGED = ("--max-drop", "100", "--no-search", "--json")


def prepare(model: str, work: Path) -> int:
    """Write the model with random weights, and the captions; return how many captions there are."""
    import torch

    from tinyclip_edge.models import load_clip, save_local_dir
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    captions = [sample.captions[0] for sample in read_split(kit_path(), "val")]
    (work / CAPTIONS).write_text("\n".join(captions) + "\n", encoding="utf-8")
    if not (work / "model").is_dir():
        torch.manual_seed(0)
        save_local_dir(work / "model", load_clip(model, allow_random=True))
    return len(captions)


def export(work: Path, number: int, options: tuple[str, ...], pairs: int) -> dict[str, Any]:
    """Export, and return megabytes of both towers and their lowest cosines to PyTorch."""
    out = f"bundle-{number}"
    command = ("-m", "tinyclip_edge", "export", "model", *options, *UNJUDGED)
    done = subprocess.run(
        [sys.executable, *command, "--limit", str(pairs), "--out", out, "--force"],
        cwd=work,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(options)}: {done.stderr}")
    report = json.loads(done.stdout)
    precision = report["precisions"][-1]
    manifest = json.loads((work / out / "manifest.json").read_text(encoding="utf-8"))
    figures = report["verification"]["precisions"][precision]
    towers = [paths[precision] for paths in manifest["towers"].values()]
    return {
        "precision": precision,
        "MB": sum(report["files"][path] for path in towers) / 1e6,
        "cosine": {tower: figures[tower]["cosine_min"] for tower in ("image", "text")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=VIT_8M, choices=MODELS[:2])
    parser.add_argument("--pairs", type=int, default=100, help="pairs of the verification")
    parser.add_argument("--work", type=Path, default=Path("runs/bundle-sizes"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    captions = prepare(options.model, options.work)
    forms = {
        name.format(captions=f"{captions:,}"): export(options.work, number, given, options.pairs)
        for number, (name, given) in enumerate(FORMS.items())
    }
    results = {"model": options.model, "pairs": options.pairs, "forms": forms}
    print_result({**results, "machine": machine_facts()}, options.out)


if __name__ == "__main__":
    main()
