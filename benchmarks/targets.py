"""Every export target: its files, its gates, what of it runs here, and its size.

Exports one model for each target of the table, one after the other; a target whose export is
refused is listed with the reason. ``--times`` adds the time of each precision against fp32, input
by input in turns as the export measures it: only on an idle machine are these figures.

    python benchmarks/targets.py runs/quickstart --out benchmarks/results/targets.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from machine import machine_facts


def exported(model: str, target: str, folder: Path, limit: int, *, times: bool) -> dict[str, Any]:
    """Export for a target; return its row, or the reason of a refusal."""
    from tinyclip_edge.api.exporting import VerificationRequest, export
    from tinyclip_edge.errors import TinyClipError

    print(f"{target} …")
    try:
        report = export(model, folder, target=target, verification=VerificationRequest(limit=limit))
    except TinyClipError as error:
        return {"target": target, "refused": str(error)}
    precisions = []
    for name in report.precisions:
        figures = report.verification["precisions"][name]
        paths = [report.towers[tower][name] for tower in ("image", "text")]
        precisions.append(_row(name, paths, report.tower_bytes(name), figures, times=times))
    for name, figures in report.engine.get("verification", {}).items():
        paths = list(report.engine["files"][name].values())
        label = f"{report.engine['name']} {name}"
        precisions.append(_row(label, paths, report.engine_bytes(name), figures, times=times))
    return {"target": target, "precisions": precisions}


def _row(
    name: str, paths: list[str], size: int, figures: dict[str, Any], *, times: bool
) -> dict[str, Any]:
    # A slow file is a note, not a refusal; too few pairs decide nothing.
    gates = [
        check
        for check, passed in figures["checks"].items()
        if passed and not check.endswith("latency")
    ]
    row = {
        "precision": name,
        "files": paths,
        "mb": round(size / 1e6, 2),
        "gates": len(gates),
        "cosine": {tower: figures[tower]["cosine_min"] for tower in ("image", "text")},
        "recall@1_drop": figures["ranking"]["recall@1_drop"],
    }
    if times and name != "fp32":
        row["times_faster"] = {tower: figures[tower]["times_faster"] for tower in ("image", "text")}
    return row


def main() -> None:
    """Export for all targets and write their rows."""
    from tinyclip_edge.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, a model folder or a name")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--limit", type=int, default=200, help="pairs of the verification")
    parser.add_argument("--times", action="store_true", help="on an idle machine only")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = {}
    if options.out.is_file():  # targets that are not named keep their rows
        rows = {row["target"]: row for row in json.loads(options.out.read_text())["targets"]}
    for target in options.targets:
        with tempfile.TemporaryDirectory() as scratch:
            rows[target] = exported(
                options.model, target, Path(scratch) / target, options.limit, times=options.times
            )
        content = {
            "model": Path(options.model).name,
            "pairs": options.limit,
            "machine": machine_facts(),
            "targets": [rows[name] for name in TARGETS if name in rows],
        }
        options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
