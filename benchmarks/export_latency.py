"""Latency and size of exported towers against PyTorch, eager and compiled, on published shapes.

Weights are random, because only time and bytes are measured. Each number of threads has its own
process, in which all variants of a tower take turns, call by call, so that background load affects
all alike. Processor time (cpu) is reported too, in case other programs share the cores. ViT and
text towers are quantized dynamically, the ResNet statically; "int8" is int8 for --target,
"portable" is int8 without a target.

    python benchmarks/export_latency.py --out benchmarks/results/export-latency.json

Towers and rows stay in --work; with --resume, a second call measures only what is missing.
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
from written import write_result

VIT_8M, VIT_40M = "TinyCLIP-ViT-8M-16-Text-3M", "TinyCLIP-ViT-40M-32-Text-19M"
RESNET = "TinyCLIP-ResNet-19M-Text-19M"
MODELS = (VIT_8M, VIT_40M, RESNET)
TOWERS = ("image", "text")
PRECISIONS = ("fp32", "int8", "portable")
CAPTION = 8  # tokens of a typical caption, start and end included
CONTEXT = 77
WARM_UP = 5
# Targets at batch 1 and one thread: model, tower, slower variant, faster variant, ratio.
TARGETS = (
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


# Maximum MB of both towers together.
TARGETS_MB = ((VIT_8M, "portable", 25.5),)


def write_towers(name: str, folder: Path, target: str) -> dict[str, int]:
    """Write both towers of a random model in fp32 and int8, unless they exist; return bytes."""
    import torch

    from tinyclip_edge.config.preset import ExportPreset, load_preset
    from tinyclip_edge.models import load_clip
    from tinyclip_export.onnx_passes import exporter
    from tinyclip_export.onnx_passes.graph_utils import is_convolutional
    from tinyclip_export.quantization.recipe import QuantizeJob
    from tinyclip_export.quantization.registry import recipes_for
    from tinyclip_export.towers.factory import image_tower, text_tower

    files = {f"{t}-{p}": folder / f"{name}-{t}-{p}.onnx" for t in TOWERS for p in PRECISIONS}
    if not all(path.exists() for path in files.values()):
        torch.manual_seed(0)
        clip = load_clip(name, allow_random=True)
        folder.mkdir(parents=True, exist_ok=True)
        image = files["image-fp32"]
        exporter.export_image_tower(image_tower(clip.model), image, image_size=clip.image_size)
        text = text_tower(clip.model, clip.tokenizer(["a"])[0])
        exporter.export_text_tower(text, files["text-fp32"])
        random = np.random.default_rng(0)
        rows = [random.standard_normal((1, 3, clip.image_size, clip.image_size)) for _ in range(8)]
        feeds = [{"pixel_values": row.astype(np.float32)} for row in rows]
        static = is_convolutional(image)
        for precision, preset in (("int8", load_preset(target)), ("portable", ExportPreset())):
            recipes = recipes_for("int8", preset, convolutional=static)
            for tower in TOWERS:
                source, quantized = files[f"{tower}-fp32"], files[f"{tower}-{precision}"]
                recipes.of(tower).write(QuantizeJob(tower, source, quantized, feeds=lambda: feeds))
    return {key: path.stat().st_size for key, path in files.items()}


def variants(
    name: str, tower: str, options: argparse.Namespace, batch: int
) -> dict[str, Callable[[], object]]:
    """Return, by variant, a function that makes one call; all have the same input."""
    import torch

    from tinyclip_edge.models import load_clip

    torch.manual_seed(0)
    model: Any = load_clip(name, allow_random=True).model
    pixels = torch.randn(batch, 3, 224, 224)
    words = torch.randint(1, 49000, (batch, CONTEXT))
    words[:, -1] = 49407
    inputs = pixels if tower == "image" else words
    encode = model.encode_image if tower == "image" else model.encode_text
    calls: dict[str, Callable[[], object]] = {
        "torch eager": lambda: encode(inputs, normalize=True),
    }
    if tower == "image" and name in options.compile:
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: encode(x, normalize=True), dynamic=False)
        calls["torch.compile"] = lambda: compiled(inputs)
    for precision in PRECISIONS:
        run = session(options, name, tower, precision)
        calls[f"onnx {precision}"] = lambda run=run: run(inputs.numpy())  # type: ignore[misc]
        if tower == "text":
            short = words[:, :CAPTION].clone().numpy()
            short[:, -1] = 49407
            calls[f"onnx {precision}, {CAPTION} tokens"] = lambda run=run, ids=short: run(ids)  # type: ignore[misc]
    return calls


def session(
    options: argparse.Namespace, name: str, tower: str, precision: str
) -> Callable[..., Any]:
    """Open a file as a bundle's runtime does."""
    import onnxruntime

    from tinyclip_edge.runtime.session import session_options

    path = options.work / f"{name}-{tower}-{precision}.onnx"
    model = onnxruntime.InferenceSession(str(path), session_options(threads=options.threads))
    key = model.get_inputs()[0].name
    return lambda value: model.run(None, {key: value})


def interleaved(
    calls: dict[str, Callable[[], object]], rounds: int, pause: float
) -> dict[str, dict[str, float]]:
    """Time one call of each variant per round, in turns; milliseconds.

    `pause` seconds precede each call: PyTorch's idle threads spin for some milliseconds, which
    would slow down another variant's call if there are as many threads as cores.
    """
    wall: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    order = list(calls)
    gc.disable()
    for _ in range(rounds):
        for name in order:
            time.sleep(pause)
            started, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            processor[name].append((time.process_time() - cpu) * 1e3)
            wall[name].append((time.perf_counter() - started) * 1e3)
        order.append(order.pop(0))
    gc.enable()
    return {
        name: {
            "median": float(np.median(wall[name])),
            "min": min(wall[name]),
            "cpu": float(np.median(processor[name])),
            "rounds": rounds,
        }
        for name in calls
    }


def measure(options: argparse.Namespace) -> None:
    """Measure all models with one number of threads, in a separate process; one file per row."""
    import torch

    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        for about in places(options, options.threads):
            name, tower, batch = about["model"], about["tower"], about["batch"]
            if options.resume and row_file(options, about).exists():
                continue
            calls = variants(name, tower, options, batch)
            rounds = options.rounds if batch == 1 else options.large_rounds
            before = machine_facts()["load"]
            times = interleaved(calls, rounds, 0.005 if options.threads > 1 else 0.0)
            row = {**about, "load": [before, machine_facts()["load"]], "ms": times}
            row_file(options, about).write_text(json.dumps(row))
            print(f"{about} measured", file=sys.stderr, flush=True)


def places(options: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """Return the settings of all rows, batch 1 first: larger batches take most of the time."""
    return [
        {"model": name, "tower": tower, "batch": batch, "threads": threads}
        for batch in options.batches
        for name in options.models
        for tower in TOWERS
    ]


def row_file(options: argparse.Namespace, about: dict[str, Any]) -> Path:
    name = "-".join(str(value) for value in about.values())
    path: Path = options.work / f"{name}.json"
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--all-threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, help="measure with this number of threads only")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--large-rounds", type=int, default=10, help="rounds of batches above 1")
    parser.add_argument(
        "--compile", nargs="*", default=[VIT_8M], choices=MODELS, help="image towers to compile too"
    )
    parser.add_argument("--target", default="x86-vnni", help="preset of int8")
    parser.add_argument("--work", type=Path, default=Path("runs/export-latency"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    options.work /= options.target  # targets do not share files
    if options.threads:
        measure(options)
        return
    sizes = {name: write_towers(name, options.work, options.target) for name in options.models}
    rows = []
    for threads in options.all_threads:
        subprocess.run([sys.executable, *sys.argv, "--threads", str(threads)], check=True)
        rows += [json.loads(row_file(options, p).read_text()) for p in places(options, threads)]
    results = {
        "machine": machine_facts(),
        "target": options.target,
        "bytes": sizes,
        "rows": rows,
        "asked": ratios_reached(rows),
        "asked_mb": sizes_reached(sizes),
    }
    write_result(results, options.out)
    print_tables(results)


def ratios_reached(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the ratios of medians, minima and processor time for each target."""
    lines = []
    for name, tower, slow, fast, ratio in TARGETS:
        for row in rows:
            place = (row["model"], row["tower"], row["batch"], row["threads"])
            ms = row["ms"]
            if place == (name, tower, 1, 1) and slow in ms:
                ratios = {k: ms[slow][k] / ms[fast][k] for k in ("median", "min", "cpu")}
                about = {"model": name, "tower": tower, "from": slow, "to": fast}
                lines.append({**about, "asked": ratio, **ratios})
    return lines


def sizes_reached(sizes: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """Return the size of both towers together for each target, in MB."""
    return [
        {
            "model": name,
            "precision": precision,
            "asked": limit,
            "mb": sum(sizes[name][f"{tower}-{precision}"] for tower in TOWERS) / 1e6,
        }
        for name, precision, limit in TARGETS_MB
        if name in sizes
    ]


def print_tables(results: dict[str, Any]) -> None:
    print(json.dumps(results["machine"]))
    for row in results["rows"]:
        title = f"{row['model']} {row['tower']}, batch {row['batch']}, {row['threads']} threads"
        print(f"\n{title}, load {row['load'][0]} to {row['load'][1]}")
        for name, ms in row["ms"].items():
            print(
                f"  {name:24} {ms['median']:9.2f} ms, min {ms['min']:9.2f}, "
                f"cpu {ms['cpu']:9.2f}, {ms['rounds']} rounds"
            )
    print("\ntimes faster: target, by medians, by minima, by processor time")
    for line in results["asked"]:
        label = f"{line['model']} {line['tower']}: {line['from']} -> {line['to']}"
        ratios = "  ".join(f"{line[key]:5.2f}" for key in ("median", "min", "cpu"))
        print(f"  {label:78} {line['asked']:4.1f}  {ratios}")
    for line in results["asked_mb"]:
        label = f"{line['model']} {line['precision']}, both towers"
        print(f"  {label:78} at most {line['asked']} MB: {line['mb']:.1f}")


if __name__ == "__main__":
    main()
