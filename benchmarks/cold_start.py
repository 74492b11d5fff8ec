"""Cold start and memory of the text tower: EdgeCLIP against open_clip on PyTorch.

Every call is a fresh process, timed from its start to the first text embedding. The variants take
turns, so that background load affects all alike. All have the same random weights, because only
time and memory are measured. The files are in the page cache, so the disk does not matter.
Processor seconds are reported too, because they are more reliable than wall time on a busy machine.

    python benchmarks/cold_start.py --out benchmarks/results/cold-start.json
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from export_latency import TOWERS, VIT_8M, write_towers
from machine import machine_facts
from written import write_result

TEXT = "a photo of a cat"
# EdgeCLIP's maximum seconds, how many times faster than open_clip it must be, its maximum MB.
TARGETS = {"seconds": 0.6, "quicker": 8.0, "peak_mb": 150.0}
TORCH = "open_clip, torch"
INT8 = "EdgeCLIP int8"
_PEAK = """
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024)
"""
_EDGE = """
import sys
from tinyclip_edge import EdgeCLIP
clip = EdgeCLIP.load(sys.argv[1], precision={precision!r}, low_memory={low_memory})
assert clip.encode_text([sys.argv[2]]).shape == (1, 512)
print("ready", flush=True)
"""
_OPEN_CLIP = """
import sys, torch, open_clip
model = open_clip.create_model("local-dir:" + sys.argv[1]).eval()
tokens = open_clip.get_tokenizer("local-dir:" + sys.argv[1])([sys.argv[2]])
with torch.inference_mode():
    assert model.encode_text(tokens, normalize=True).numpy().shape == (1, 512)
print("ready", flush=True)
"""
PROGRAMS = {
    INT8: _EDGE.format(precision="int8", low_memory=False) + _PEAK,
    "EdgeCLIP int8, low memory": _EDGE.format(precision="int8", low_memory=True) + _PEAK,
    "EdgeCLIP fp32": _EDGE.format(precision="fp32", low_memory=False) + _PEAK,
    TORCH: _OPEN_CLIP + _PEAK,
    "an empty Python": "print('ready', flush=True)" + _PEAK,
}


def write_models(work: Path) -> tuple[Path, Path]:
    """Write the bundle and the open_clip folder of the same random weights; return both."""
    import torch

    from tinyclip_edge.models import load_clip, save_local_dir, weights_hash
    from tinyclip_edge.models.tokenizer_files import write_tokenizer

    bundle, folder = work / "bundle", work / "open_clip"
    torch.manual_seed(0)
    clip = load_clip(VIT_8M, allow_random=True)
    if not (folder / "open_clip_config.json").exists():
        save_local_dir(folder, clip)
    if not (bundle / "manifest.json").exists():
        write_towers(VIT_8M, work / "towers", "x86")
        (bundle / "onnx").mkdir(parents=True, exist_ok=True)
        for tower in TOWERS:
            for precision, suffix in (("fp32", "fp32"), ("int8", "portable")):
                tower_file = work / "towers" / f"{VIT_8M}-{tower}-{suffix}.onnx"
                shutil.copyfile(tower_file, bundle / "onnx" / f"{tower}-{precision}.onnx")
        special = write_tokenizer(clip, bundle)
        preprocessor = {"size": clip.image_size, "interpolation": "bicubic"}
        (bundle / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        write_manifest(bundle, clip, special.end, weights_hash(clip.model))
    return bundle, folder


def write_manifest(bundle: Path, clip: Any, end: int, source: str) -> None:  # noqa: ANN401
    """Describe the bundle's files."""
    from tinyclip_edge.runtime.bundle import Manifest, list_files
    from tinyclip_export.quantization.dynamic_int8 import PORTABLE

    Manifest(
        created_by="benchmarks/cold_start.py",
        name=VIT_8M,
        source={"model": "random weights", "sha256": source},
        model_hash=source,
        image_size=clip.image_size,
        embedding_dim=clip.embedding_dim,
        context_length=clip.context_length,
        logit_scale=clip.logit_scale,
        eot_token_id=end,
        parameters={"image": 0, "text": 0, "token_embedding": 0},
        default_precision="int8",
        towers={t: {p: f"onnx/{t}-{p}.onnx" for p in ("fp32", "int8")} for t in TOWERS},
        files=list_files(bundle),
        recipe={"fp32": {"kind": "float"}, "int8": PORTABLE.as_dict()},
    ).write(bundle)


def one_start(program: str, folder: Path) -> dict[str, float]:
    """Return wall and processor seconds from a process's start to its embedding, and peak MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", program, str(folder), TEXT]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        ready = child.stdout.readline()
        seconds = time.perf_counter() - started
        peak = child.stdout.readline()
    if child.returncode or ready.strip() != "ready":
        raise SystemExit(f"a process failed with {child.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": processor, "peak_mb": float(peak)}


def measure(bundle: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Start each variant once per round, in turns, after one round that is not counted."""
    starts: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    order = list(PROGRAMS)
    for number in range(rounds + 1):
        for name in order:
            start = one_start(PROGRAMS[name], folder if name == TORCH else bundle)
            if number:
                starts[name].append(start)
        order.append(order.pop(0))
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return {
        name: {key: summary([start[key] for start in variant]) for key in variant[0]}
        for name, variant in starts.items()
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": min(values), "max": max(values)}


def figures_reached(rows: dict[str, Any]) -> dict[str, float]:
    """Return the measured value of each target; times are medians, memory is the maximum."""
    edge, torch_clip = rows[INT8], rows[TORCH]
    return {
        "seconds": edge["seconds"]["median"],
        "quicker": torch_clip["seconds"]["median"] / edge["seconds"]["median"],
        "quicker_cpu": torch_clip["cpu_seconds"]["median"] / edge["cpu_seconds"]["median"],
        "peak_mb": edge["peak_mb"]["max"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--work", type=Path, default=Path("runs/cold-start"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bundle, folder = write_models(options.work)
    before = machine_facts()
    rows = measure(bundle, folder, options.rounds)
    load = [before["load"], machine_facts()["load"]]
    results = {
        "machine": {**before, "load": load},
        "model": VIT_8M,
        "rounds": options.rounds,
        "variants": rows,
        "asked": TARGETS,
        "reached": figures_reached(rows),
    }
    write_result(results, options.out)
    for name, row in rows.items():
        print(
            f"{name:28} {row['seconds']['median']:6.2f} s (min {row['seconds']['min']:.2f})"
            f"  processor {row['cpu_seconds']['median']:5.2f} s"
            f"  peak {row['peak_mb']['median']:6.0f} MB"
        )
    print(json.dumps({"asked": TARGETS, "reached": results["reached"], "load": load}))


if __name__ == "__main__":
    main()
