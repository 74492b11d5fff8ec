"""Every export target: files, gates, what can run on this machine, size and times.

Exports one model for each target, one after the other; a target whose export is refused is listed
with the reason. A target with its own engine is exported by the Python of that engine's
environment, which `make devices` installs. ``--times`` adds, for targets of this machine, the times
of each precision and of the fp32 towers of an export without a target, in turns in one process;
they are only meaningful on an idle machine. ``--quick`` only checks that everything works.

    python benchmarks/targets.py runs/quickstart --times --out benchmarks/results/targets.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from machine import machine_facts

# Engine -> folder of its environment below --envs.
ENVIRONMENTS = {"openvino": "openvino-ir", "litert": "litert", "executorch": "executorch"}


def exported(model: str, target: str, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Export for a target; return its row, or the reason for a refusal."""
    from tinyclip_edge.api.exporting import VerificationRequest, export
    from tinyclip_edge.errors import TinyClipError

    print(f"{target} …", flush=True)
    folder = scratch / target
    verification = VerificationRequest(limit=options.limit)
    try:
        report = export(model, folder, target=target, verification=verification)
    except TinyClipError as error:
        return {"target": target, "refused": str(error)}
    precisions = []
    for name in report.precisions:
        figures = report.verification["precisions"][name]
        paths = [report.towers[tower][name] for tower in ("image", "text")]
        precisions.append(_row(name, paths, report.tower_bytes(name), figures))
    for name, figures in report.engine.get("verification", {}).items():
        paths = list(report.engine["files"][name].values())
        label = f"{report.engine['name']} {name}"
        precisions.append(_row(label, paths, report.engine_bytes(name), figures))
    row: dict[str, Any] = {"target": target, "precisions": precisions}
    if options.times:
        row |= _times(model, folder, scratch, precisions, options)
    return row


def _row(name: str, paths: list[str], size: int, figures: dict[str, Any]) -> dict[str, Any]:
    # Latency is not a gate: a slow file is only noted. Checks with too few pairs do not count.
    gates = [
        check
        for check, passed in figures["checks"].items()
        if passed and not check.endswith("latency")
    ]
    return {
        "precision": name,
        "files": paths,
        "mb": round(size / 1e6, 2),
        "gates": len(gates),
        "cosine": {tower: figures[tower]["cosine_min"] for tower in ("image", "text")},
        "recall@1_drop": figures["ranking"]["recall@1_drop"],
    }


def _times(
    model: str,
    folder: Path,
    scratch: Path,
    precisions: list[dict[str, Any]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Add times to the rows of precisions; return how they were measured, or why not."""
    from target_times import bundle_times, cannot_run_here
    from tinyclip_edge.api.exporting import VerificationRequest, export

    if (reason := cannot_run_here(folder.name)) is not None:
        return {"not_timed": reason}
    baseline = scratch / "fp32"
    if not baseline.is_dir():
        verification = VerificationRequest(limit=2)
        export(model, baseline, precisions=("fp32",), verification=verification)
    before = machine_facts()["load"]
    times = bundle_times(folder, baseline, rounds=options.rounds, threads=options.threads)
    for row in precisions:
        row["times"] = times[row["precision"]]
    return {"timed": {"rounds": options.rounds, "threads": options.threads, "load": before}}


def in_its_environment(model: str, target: str, options: argparse.Namespace) -> dict[str, Any]:
    """Export for an engine's target with the Python of its environment; return the row."""
    python = options.envs / ENVIRONMENTS[target] / "bin/python"
    if not python.is_file():
        return {"target": target, "refused": f"{python} is missing: `make devices` installs it"}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "row.json"
        words = ["--targets", target, "--limit", options.limit, "--rounds", options.rounds,
                 "--threads", options.threads, *(["--times"] if options.times else [])]  # fmt: skip
        command = [python, __file__, model, *words, "--out", out]
        done = subprocess.run(
            [str(word) for word in command], stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            return {"target": target, "refused": lines[-1][:300] if lines else "its process ended"}
        (row,) = json.loads(out.read_text())["targets"]
    return dict(row)


def has_packages(target: str) -> bool:
    """Whether this Python has the packages that write a target's files."""
    from importlib.util import find_spec

    from tinyclip_edge.engines import ENGINES

    engine = ENGINES.get(target)
    return engine is None or all(find_spec(module) for module in engine.packages)


def main() -> None:
    """Export for all targets and write their rows."""
    from tinyclip_edge.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, a model folder or a name")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--limit", type=int, default=200, help="pairs for the verification")
    parser.add_argument("--times", action="store_true", help="measure times, on an idle machine")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of timing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--envs", type=Path, default=Path(".venv"), help="engines' environments")
    parser.add_argument("--quick", action="store_true", help="12 pairs and 3 rounds, as a test")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.quick:
        options.limit, options.rounds, options.times = 12, 3, True
    rows = {}
    if options.out.is_file():  # other targets keep their rows
        rows = {row["target"]: row for row in json.loads(options.out.read_text())["targets"]}
    with tempfile.TemporaryDirectory() as scratch:
        for target in options.targets:
            if has_packages(target):
                rows[target] = exported(options.model, target, Path(scratch), options)
            else:
                rows[target] = in_its_environment(options.model, target, options)
            content = {
                "model": Path(options.model).name,
                "pairs": options.limit,
                "machine": machine_facts(),
                "targets": [rows[name] for name in TARGETS if name in rows],
            }
            options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
