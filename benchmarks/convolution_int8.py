"""int8 and 4-bit forms of MobileCLIP2-S0's image tower (FastViT): speed, size, closeness to float.

A fresh network says little about accuracy: its layer scales are 1e-5, so that most blocks hardly
count, and its batch-norm statistics are trivial. So the tower is first trained on the starter kit
to have the starter teacher's image features, at 64 pixels, and its statistics are measured again at
its own 256. ``spread`` is that network with channels of very different ranges between its layers,
as long training leaves them: inputs of pointwise convolutions are rescaled exactly, hidden channels
by factors of the same kind.

    python benchmarks/convolution_int8.py --out benchmarks/results/convolution-int8.json

Forms are timed call by call in turns, one thread, one picture; `cpu` is processor time, as other
programs share the cores. The trained weights stay in --work.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from export_latency import interleaved
from machine import machine_facts

NAME = "MobileCLIP2-S0"
SIZE, TRAINED_SIZE = 256, 64  # pixels
BATCH = 32
SPREAD = 0.7  # standard deviation of the logarithm of channel factors
PIXELS = "pixel_values"

Torch: TypeAlias = Any  # tensors and modules; torch is imported where it is used
Session: TypeAlias = Any  # onnxruntime.InferenceSession, which has no types


def pictures(split: str, count: int) -> Torch:
    """Return pictures of a split of the starter kit as uint8 ``[N, 3, 64, 64]``, evenly chosen."""
    import torch

    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    samples = list(read_split(kit_path(), split))
    chosen = samples[:: max(1, len(samples) // count)][:count]
    return torch.stack([torch.from_numpy(s.pixels().copy()).permute(2, 0, 1) for s in chosen])


def enlarged(batch: Torch, size: int) -> Torch:
    """Return pixels of a range of 0 to 1, as MobileCLIP2 reads them, in another size."""
    from torch.nn.functional import interpolate

    values = batch.float() / 255.0
    return values if size == TRAINED_SIZE else interpolate(values, size, mode="bicubic").clamp(0, 1)


def trained_tower(options: argparse.Namespace) -> tuple[Torch, dict[str, Any]]:
    """Return the image tower after `options.steps` steps, and what it has learnt."""
    import torch

    from tinyclip_edge.models import load_clip

    torch.manual_seed(0)
    visual: Any = load_clip(NAME, allow_random=True).model.visual
    path = options.work / f"trained-{options.steps}.pt"
    if path.exists():
        stored = torch.load(path)
        visual.load_state_dict(stored["weights"])
        return visual, stored["learnt"]
    images, held_out = pictures("train", options.pictures), pictures("val", 480)
    targets, right = teacher_targets(images, held_out)
    for name, parameter in visual.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.1)
    visual.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(visual.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, options.steps)
    for step in range(options.steps):
        rows = torch.randint(len(images), (BATCH,))
        out = visual(enlarged(images[rows], TRAINED_SIZE).to(memory_format=torch.channels_last))
        loss = 1 - torch.cosine_similarity(out, targets[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(visual.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(f"step {step}: cosine {1 - loss.item():.3f}", flush=True)
    visual.eval().to(memory_format=torch.contiguous_format)
    learnt = {str(TRAINED_SIZE): closeness(visual, held_out, right, TRAINED_SIZE)}
    measure_statistics(visual, images)
    learnt[str(SIZE)] = closeness(visual, held_out[:96], right[:96], SIZE)
    torch.save({"weights": visual.state_dict(), "learnt": learnt}, path)
    return visual, learnt


def teacher_targets(*image_sets: Torch) -> list[Torch]:
    """Return the starter teacher's image features of each set, centred, in 512 dimensions."""
    import torch

    from tinyclip_edge.models import load_clip

    teacher: Any = load_clip("starter-teacher").model
    with torch.inference_mode():
        features = [
            torch.cat(
                [
                    teacher.encode_image(part.float() / 127.5 - 1, normalize=True)
                    for part in images.split(64)
                ]
            )
            for images in image_sets
        ]
    lift = torch.linalg.qr(torch.randn(512, features[0].shape[1]))[0].T
    centre = features[0].mean(0)
    return [(rows - centre) @ lift for rows in features]


def closeness(visual: Torch, images: Torch, right: Torch, size: int) -> dict[str, float]:
    """Return the mean cosine to targets, and how often a picture's own is the nearest."""
    import torch
    from torch.nn.functional import normalize

    with torch.inference_mode():
        parts = [visual(enlarged(part, size)) for part in images.split(BATCH)]
    scores = normalize(torch.cat(parts)) @ normalize(right).T
    nearest = scores.argmax(1) == torch.arange(len(scores))
    return {"cosine": scores.diag().mean().item(), "nearest": nearest.float().mean().item()}


def measure_statistics(visual: Torch, images: Torch) -> None:
    """Replace batch-norm statistics by those of pictures of the full size."""
    import torch

    norms = [m for m in visual.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    with torch.no_grad():
        for part in images[:128].split(16):
            visual(enlarged(part, SIZE))
    visual.eval()


def spread(visual: Torch) -> Torch:
    """Return a copy with channels of log-normal ranges before both convolutions of each MLP."""
    import torch

    torch.manual_seed(3)
    out = copy.deepcopy(visual)
    with torch.no_grad():
        for mlp in (m for m in out.modules() if type(m).__name__ == "ConvMlp"):
            before, hidden = (
                torch.exp(SPREAD * torch.randn(conv.in_channels)) for conv in (mlp.fc1, mlp.fc2)
            )
            mlp.conv.bn.weight.mul_(before)
            mlp.conv.bn.bias.mul_(before)
            mlp.fc1.weight.div_(before[:, None, None])
            mlp.fc1.weight.mul_(hidden[:, None, None, None])
            mlp.fc1.bias.mul_(hidden)
            mlp.fc2.weight.div_(hidden[:, None, None])
    return out


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
    """Return milliseconds of each form, and its ratios to fp32."""
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
    """Return milliseconds of a call by kind of kernel, from onnxruntime's profile."""
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
    """Return the operator's type; of a convolution also whether it is depthwise or pointwise."""
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
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
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
