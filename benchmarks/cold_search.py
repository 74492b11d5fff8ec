"""Cold search: the whole process of `tinyclip-edge search` on an index of 100,000 pictures.

Vectors are random, because only their number matters. Each round starts one process for each
checkout in turn, this one and those named by `--against`, so that all meet the same load.

    python benchmarks/cold_search.py BUNDLE --out benchmarks/results/cold-search.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from machine import machine_facts
from tinyclip_edge import EdgeCLIP, ImageIndex
from tinyclip_edge.runtime.index_file import FILE_STAMP

HERE = Path(__file__).resolve().parents[1]


def write_index(bundle: Path, pictures: int, path: Path) -> None:
    clip = EdgeCLIP.load(bundle)
    width = clip.manifest.embedding_dim
    codes = np.random.default_rng(0).integers(-127, 128, (pictures, width), dtype=np.int8)
    scales = (1 / np.linalg.norm(codes.astype(np.float32), axis=1)).astype(np.float32)
    ImageIndex(
        tuple(f"/home/me/Pictures/2019/a day in the hills/{i:08d}.jpg" for i in range(pictures)),
        codes,
        clip.model_hash,
        scales,
        files=np.zeros(pictures, FILE_STAMP),
        bundle=str(bundle.absolute()),
    ).save(path)


def one_search(checkout: Path, index: Path) -> tuple[float, float]:
    """Return seconds of processor time and of wall time."""
    # Write compiled modules, as for an installed package.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(checkout)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tinyclip_edge", "search", "a red bicycle", "--in", str(index)],
        env=environment, cwd=index.parent, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"the search of {checkout} failed")
    return usage.ru_utime + usage.ru_stime, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--against", type=Path, nargs="*", default=[], metavar="CHECKOUT")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    checkouts = [HERE, *(path.absolute() for path in arguments.against)]
    runs: dict[Path, list[tuple[float, float]]] = {path: [] for path in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder, "pictures.npz")
        write_index(arguments.bundle, arguments.pictures, index)
        for turn in range(arguments.rounds + 1):
            for path in checkouts:
                figures = one_search(path, index)
                if turn:  # the first compiles the modules
                    runs[path].append(figures)
    result: dict[str, Any] = {
        "machine": machine_facts(), "pictures": arguments.pictures, "rounds": arguments.rounds
    }  # fmt: skip
    for path, times in runs.items():
        processor, seconds = zip(*times, strict=True)
        result["here" if path == HERE else path.name] = {
            "cpu_s_least": round(min(processor), 3),
            "cpu_s_median": round(statistics.median(processor), 3),
            "s_least": round(min(seconds), 3),
            "s_median": round(statistics.median(seconds), 3),
        }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
