"""int8 and 4-bit forms of MobileCLIP2-S0's image tower (FastViT): speed, size, closeness to float.

The weights are trained, spread or fresh, see convolution_towers.py.

    python benchmarks/convolution_int8.py --out benchmarks/results/convolution-int8.json

Forms take turns, call by call, with one thread and one picture; `cpu` is processor time, for when
other programs share the cores. The trained weights stay in --work.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from convolution_towers import NAME, SIZE, enlarged, pictures, spread, trained_tower
from export_latency import interleaved
from machine import machine_facts
from written import write_result

PIXELS = "pixel_values"

Torch: TypeAlias = Any  # tensors and modules; torch is imported where it is used
Session: TypeAlias = Any  # onnxruntime.InferenceSession, which has no types


def write_forms(visual: Torch, folder: Path, feeds: list[dict[str, Any]]) -> dict[str, Path]:
    """Write the tower as ONNX in each form; return form -> file."""
    from types import SimpleNamespace

    from tinyclip_export.onnx_passes import exporter
    from tinyclip_export.quantization import qdq_residual, static_int8
    from tinyclip_export.quantization.dynamic_int8 import Int8Recipe
    from tinyclip_export.quantization.float_form import float_form
    from tinyclip_export.quantization.recipe import QuantizeJob
    from tinyclip_export.quantization.static_int8 import StaticRecipe
    from tinyclip_export.quantization.weight_only import WeightOnlyRecipe
    from tinyclip_export.towers.timm import TimmTower

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "fp32.onnx"
    if not source.exists():
        tower = TimmTower(SimpleNamespace(visual=visual))
        exporter.export_image_tower(tower, source, image_size=SIZE)
    static, dynamic = StaticRecipe(), Int8Recipe()
    four_bits = WeightOnlyRecipe()
    forms: dict[str, tuple[Any, Path]] = {
        "static, all convolutions": (static, source),
        "static, pointwise convolutions": (static, source),
        "static, pointwise products": (static, float_form(source, static, folder)),
        "dynamic, pointwise products": (dynamic, float_form(source, dynamic, folder)),
        "q4, pointwise products": (four_bits, float_form(source, four_bits, folder)),
    }
    files = {"fp32": source}
    for name, (recipe, float_file) in forms.items():
        files[name] = folder / f"{name.replace(', ', '-').replace(' ', '-')}.onnx"
        if files[name].exists():
            continue
        floats = qdq_residual.float_convolutions
        module: Any = static_int8
        if "all" in name:
            module.float_convolutions = lambda _: []
        recipe.write(QuantizeJob("image", float_file, files[name], feeds=lambda: feeds))
        module.float_convolutions = floats
        print(f"{name} written", flush=True)
    return files


def opened(path: Path, *, profile: Path | None = None) -> Session:
    """Open a file as the runtime does, with one thread."""
    import onnxruntime

    from tinyclip_edge.runtime.session import session_options

    settings = session_options(threads=1)
    if profile is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(str(path), settings)


def cosines(files: dict[str, Path], feeds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return each form's cosines to fp32 on the same pictures."""
    rows = {
        name: np.concatenate([session.run(None, feed)[0] for feed in feeds])
        for name, session in ((name, opened(path)) for name, path in files.items())
    }
    table = {}
    for name, features in rows.items():
        values = (features * rows["fp32"]).sum(axis=1)
        table[name] = {
            "min": float(values.min()),
            "p1": float(np.percentile(values, 1)),
            "median": float(np.median(values)),
        }
    return table


def times(files: dict[str, Path], feed: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Return each form's milliseconds and its ratios to fp32."""
    sessions = {name: opened(path) for name, path in files.items()}
    calls: dict[str, Callable[[], object]] = {
        name: partial(session.run, None, feed) for name, session in sessions.items()
    }
    ms = interleaved(calls, rounds, 0.0)
    rows: dict[str, Any] = ms
    for row in rows.values():
        row["faster"] = {key: ms["fp32"][key] / row[key] for key in ("median", "min", "cpu")}
    return ms


def kernel_ms(path: Path, feed: dict[str, Any], work: Path) -> dict[str, float]:
    """Return milliseconds per call by kind of kernel, from onnxruntime's profile."""
    session = opened(path, profile=work / "profile")
    for _ in range(15):
        session.run(None, feed)
    trace = Path(session.end_profiling())
    by_node: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(trace.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            by_node[kernel_kind(event["args"]), event["name"]].append(event["dur"] / 1e3)
    trace.unlink()
    kinds: dict[str, float] = defaultdict(float)
    for (kind, _), values in by_node.items():
        kinds[kind] += float(np.median(values))
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def kernel_kind(about: dict[str, Any]) -> str:
    """Return the operator's type; for a convolution, also whether it is depthwise or pointwise."""
    kind = str(about["op_name"])
    if not kind.endswith("Conv"):
        return kind
    shapes = [shape for entry in about["input_type_shape"] for shape in entry.values()]
    weight = [shape for shape in shapes if len(shape) == 4][-1]
    if weight[1] == 1:
        return f"{kind}, depthwise"
    return f"{kind}, pointwise" if weight[2:] == [1, 1] else f"{kind}, dense"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--pictures", type=int, default=12000, help="for training")
    parser.add_argument("--tested", type=int, default=64, help="held-out pictures for cosines")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("runs/convolution-int8"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    import torch

    from tinyclip_edge.models import load_clip

    torch.set_num_threads(1)
    visual, learnt = trained_tower(options)
    print(f"trained: {learnt}", flush=True)
    torch.manual_seed(0)
    fresh: Any = load_clip(NAME, allow_random=True).model.visual
    calibration, tested = (
        [{PIXELS: enlarged(row[None], SIZE).numpy()} for row in pictures(split, count)]
        for split, count in (("train", 48), ("val", options.tested))
    )
    results: dict[str, Any] = {"machine": machine_facts(), "steps": options.steps, "learnt": learnt}
    towers = {"trained": visual, "spread": spread(visual), "fresh": fresh.eval()}
    for weights, tower in towers.items():
        files = write_forms(tower, options.work / f"{weights}-{options.steps}", calibration)
        results[weights] = {
            "cosine": cosines(files, tested),
            "bytes": {name: path.stat().st_size for name, path in files.items()},
        }
        print(weights, json.dumps(results[weights]["cosine"], indent=1), flush=True)
        if weights == "trained":
            results["ms"] = times(files, tested[0], options.rounds)
            results["kernels"] = {
                name: kernel_ms(path, tested[0], options.work) for name, path in files.items()
            }
            print(json.dumps({key: results[key] for key in ("ms", "kernels")}), flush=True)
    write_result(results, options.out)
    print_table(results)


def print_table(results: dict[str, Any]) -> None:
    print(json.dumps({key: results[key] for key in ("machine", "learnt")}))
    for name, row in results["ms"].items():
        ratios = "  ".join(f"{row['faster'][key]:.2f}" for key in ("median", "min", "cpu"))
        lowest = "  ".join(
            f"{results[weights]['cosine'][name]['min']:.4f}"
            for weights in ("fresh", "trained", "spread")
        )
        size = results["trained"]["bytes"][name] / 1e6
        print(f"{name:32} {size:5.1f} MB {row['median']:7.2f} ms  x {ratios}  min cosine {lowest}")
    for name, kinds in results["kernels"].items():
        shown = ", ".join(f"{kind} {ms:.1f}" for kind, ms in list(kinds.items())[:9])
        print(f"{name}: {sum(kinds.values()):.1f} ms: {shown}")


if __name__ == "__main__":
    main()
