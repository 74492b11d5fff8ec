"""Latency and size of exported towers against PyTorch, eager and compiled, on published shapes.

Weights are random: they tell time and bytes, not accuracy. Each number of threads has a process of
its own, in which all variants of a tower take turns, call by call, so that a busy machine is busy
for all. ViT and text towers are quantized dynamically, the ResNet statically.

    python benchmarks/export_latency.py --out benchmarks/results/export-latency.json
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_facts

VIT_8M, VIT_40M = "TinyCLIP-ViT-8M-16-Text-3M", "TinyCLIP-ViT-40M-32-Text-19M"
RESNET = "TinyCLIP-ResNet-19M-Text-19M"
MODELS = (VIT_8M, VIT_40M, RESNET)
CAPTION = 8  # tokens of a typical caption, start and end included
CONTEXT = 77
WARM_UP = 5
# What was asked for, at batch 1 and one thread: tower, slower variant, faster one, how often.
ASKED = (
    (VIT_8M, "image", "onnx fp32", "onnx int8", 2.5),
    (VIT_8M, "image", "torch eager", "onnx int8", 3.2),
    (VIT_8M, "image", "torch.compile", "onnx int8", 3.0),
    (VIT_8M, "text", "onnx fp32", "onnx int8", 2.5),
    (VIT_8M, "text", "onnx fp32", "onnx int8, 8 tokens", 8.0),
    (VIT_8M, "text", "onnx fp32", "onnx fp32, 8 tokens", 8.0),
    (VIT_8M, "text", "onnx int8", "onnx int8, 8 tokens", 8.0),
    (VIT_40M, "image", "onnx fp32", "onnx int8", 2.7),
    (VIT_40M, "image", "torch eager", "onnx int8", 4.2),
    (RESNET, "image", "onnx fp32", "onnx int8", 2.6),
    (RESNET, "image", "torch eager", "onnx int8", 4.0),
)


def write_towers(name: str, folder: Path) -> dict[str, Any]:
    """Write both towers of a random model in fp32 and int8; return bytes by file."""
    import torch

    from tinyclip_edge.models import load_clip
    from tinyclip_export import graph
    from tinyclip_export.encoders import image_tower, text_tower
    from tinyclip_export.jobs import Job
    from tinyclip_export.quantize import PORTABLE
    from tinyclip_export.recipes import is_convolutional
    from tinyclip_export.static import StaticRecipe

    files = {f"{t}-{p}": folder / f"{name}-{t}-{p}.onnx" for t in TOWERS for p in ("fp32", "int8")}
    if not all(path.exists() for path in files.values()):
        torch.manual_seed(0)
        clip = load_clip(name, allow_random=True)
        folder.mkdir(parents=True, exist_ok=True)
        image = files["image-fp32"]
        graph.export_image_tower(image_tower(clip.model), image, image_size=clip.image_size)
        graph.export_text_tower(text_tower(clip.model), files["text-fp32"])
        random = np.random.default_rng(0)
        rows = [random.standard_normal((1, 3, clip.image_size, clip.image_size)) for _ in range(8)]
        feeds = [{"pixel_values": row.astype(np.float32)} for row in rows]
        static = is_convolutional(image)
        for tower in TOWERS:
            recipe = StaticRecipe() if static and tower == "image" else PORTABLE
            source, target = files[f"{tower}-fp32"], files[f"{tower}-int8"]
            recipe.write(Job(tower, source, target, feeds=lambda: feeds))
    return {key: path.stat().st_size for key, path in files.items()}


TOWERS = ("image", "text")


def variants(
    name: str, tower: str, options: argparse.Namespace, batch: int
) -> dict[str, Callable[[], object]]:
    """Return variant -> one call, on the same input for all."""
    import torch

    from tinyclip_edge.models import load_clip

    torch.manual_seed(0)
    model: Any = load_clip(name, allow_random=True).model
    pixels = torch.randn(batch, 3, 224, 224)
    words = torch.randint(1, 49000, (batch, CONTEXT))
    words[:, -1] = 49407
    given = pixels if tower == "image" else words
    encode = model.encode_image if tower == "image" else model.encode_text
    calls: dict[str, Callable[[], object]] = {
        "torch eager": lambda: encode(given, normalize=True),
    }
    if not options.no_compile:
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: encode(x, normalize=True), dynamic=False)
        calls["torch.compile"] = lambda: compiled(given)
    for precision in ("fp32", "int8"):
        run = session(options, name, tower, precision)
        calls[f"onnx {precision}"] = lambda run=run: run(given.numpy())  # type: ignore[misc]
        if tower == "text":
            short = words[:, :CAPTION].clone().numpy()
            short[:, -1] = 49407
            calls[f"onnx {precision}, {CAPTION} tokens"] = lambda run=run, ids=short: run(ids)  # type: ignore[misc]
    return calls


def session(
    options: argparse.Namespace, name: str, tower: str, precision: str
) -> Callable[..., Any]:
    """Open a file as the runtime of a bundle does."""
    import onnxruntime

    from tinyclip_edge.runtime.session import session_options

    path = options.work / f"{name}-{tower}-{precision}.onnx"
    opened = onnxruntime.InferenceSession(str(path), session_options(threads=options.threads))
    key = opened.get_inputs()[0].name
    return lambda value: opened.run(None, {key: value})


def interleaved(
    calls: dict[str, Callable[[], object]], rounds: int, pause: float
) -> dict[str, dict[str, float]]:
    """Time one call of each variant a round, in turns; milliseconds.

    `pause` seconds before each call: PyTorch's idle threads spin for some milliseconds, which
    another variant's call would pay for where there are as many threads as cores.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    order = list(calls)
    gc.disable()
    for _ in range(rounds):
        for name in order:
            time.sleep(pause)
            started = time.perf_counter()
            calls[name]()
            times[name].append((time.perf_counter() - started) * 1e3)
        order.append(order.pop(0))
    gc.enable()
    return {
        name: {"median": float(np.median(found)), "min": min(found), "rounds": rounds}
        for name, found in times.items()
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all models at one number of threads; runs in a process of its own."""
    import torch

    torch.set_num_threads(options.threads)
    rows = []
    with torch.inference_mode():
        for name in options.models:
            for tower in TOWERS:
                for batch in options.batches:
                    calls = variants(name, tower, options, batch)
                    rounds = options.rounds if batch == 1 else options.large_rounds
                    before = machine_facts()["load"]
                    found = interleaved(calls, rounds, 0.005 if options.threads > 1 else 0.0)
                    about = {"model": name, "tower": tower, "batch": batch}
                    load = [before, machine_facts()["load"]]
                    rows.append({**about, "threads": options.threads, "load": load, "ms": found})
                    print(f"{about} measured", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--all-threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, help="measure at this number, print JSON, end")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--large-rounds", type=int, default=10, help="of batches above 1")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/export-latency"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        print(json.dumps(measure(options)))
        return
    sizes = {name: write_towers(name, options.work) for name in options.models}
    rows = []
    for threads in options.all_threads:
        command = [sys.executable, *sys.argv, "--threads", str(threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        rows += json.loads(done.stdout.splitlines()[-1])
    found = {"machine": machine_facts(), "bytes": sizes, "rows": rows, "asked": asked(rows)}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print_tables(found)


def asked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the medians and the minima with what was asked for."""
    found = []
    for name, tower, slow, fast, ratio in ASKED:
        for row in rows:
            place = (row["model"], row["tower"], row["batch"], row["threads"])
            if place == (name, tower, 1, 1) and slow in row["ms"]:
                reached = {k: row["ms"][slow][k] / row["ms"][fast][k] for k in ("median", "min")}
                about = {"model": name, "tower": tower, "from": slow, "to": fast}
                found.append({**about, "asked": ratio, **reached})
    return found


def print_tables(found: dict[str, Any]) -> None:
    print(json.dumps(found["machine"]))
    for row in found["rows"]:
        print(
            f"\n{row['model']} {row['tower']}, batch {row['batch']}, {row['threads']} threads",
            end="",
        )
        print(f", load {row['load'][0]} to {row['load'][1]}")
        for name, ms in row["ms"].items():
            print(
                f"  {name:24} {ms['median']:9.2f} ms, min {ms['min']:9.2f}, {ms['rounds']} rounds"
            )
    print("\ntimes faster, by medians (by minima)")
    for line in found["asked"]:
        what = f"{line['model']} {line['tower']}: {line['from']} -> {line['to']}"
        reached = f"{line['median']:.2f} ({line['min']:.2f})"
        print(f"  {what:78} {reached}, asked {line['asked']}")
    for name, sizes in found["bytes"].items():
        for precision in ("fp32", "int8"):
            both = sum(sizes[f"{tower}-{precision}"] for tower in TOWERS)
            print(f"  {name} {precision}: {both / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
