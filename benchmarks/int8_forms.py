"""Forms of the int8 file of an image tower: how fast each is, relative to fp32, on this processor.

The forms differ in what a target can set: range and type of the weights, and which operators
attention and norms become. Weights of the model are random, because only time is measured. All
forms take turns, call by call, in one process with one thread; `cpu` is processor time, for when
other programs share the cores.

    python benchmarks/int8_forms.py --out benchmarks/results/int8-forms.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export_latency import MODELS, VIT_8M, interleaved
from machine import machine_facts
from written import print_result

REFERENCE = "fp32"
X86, AVX2, VNNI, SINGLE = "x86", "x86-avx2", "x86-vnni", "x86-vnni-single"
# A form's target, whose preset it follows, and its other settings of DynamicInt8.
FORMS: dict[str, tuple[str | None, dict[str, str]]] = {
    "int8 without a target": (None, {}),
    "attention as onnxruntime's operator (`x86`)": (X86, {}),
    "attention and norms as onnxruntime's operators": (X86, {"norms": "simplified"}),
    "`x86-avx2`: both as ONNX's operators": (AVX2, {}),
    "`x86-avx2` with uint8 weights": (AVX2, {"weights": "uint8", "weight_range": "8 bit"}),
    "`x86-avx2` with 7-bit weights": (AVX2, {"weight_range": "7 bit"}),
    "`x86-vnni`: 8-bit weights": (VNNI, {}),
    "`x86-vnni-single`: feed-forward layers in halves": (SINGLE, {}),
}


@dataclass(frozen=True, slots=True)
class Form:
    """One file, and whether it needs the exact kernel on processors without VNNI."""

    path: Path
    saturates: bool


def write_forms(model: str, folder: Path) -> tuple[dict[str, Form], int]:
    """Write the image tower with random weights in each form; return them and the picture size."""
    import torch

    from tinyclip_edge.config.preset import ExportPreset, load_preset
    from tinyclip_edge.models import load_clip
    from tinyclip_export.onnx_passes.exporter import export_image_tower
    from tinyclip_export.quantization.recipe import QuantizeJob
    from tinyclip_export.quantization.registry import recipes_for
    from tinyclip_export.towers.factory import image_tower

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    clip = load_clip(model, allow_random=True)
    source = folder / f"{REFERENCE}.onnx"
    export_image_tower(image_tower(clip.model), source, image_size=clip.image_size)
    forms = {REFERENCE: Form(source, saturates=False)}
    for number, (name, (target, settings)) in enumerate(FORMS.items()):
        preset = ExportPreset() if target is None else load_preset(target)
        int8 = preset.int8.model_copy(update=settings)
        preset = preset.model_copy(update={"int8": int8})
        recipe = recipes_for("int8", preset, convolutional=False).image
        path = folder / f"int8-{number}.onnx"
        recipe.write(QuantizeJob("image", source, path))
        forms[name] = Form(path, recipe.saturates)
    return forms, clip.image_size


def calls(forms: dict[str, Form], batch: int, size: int) -> dict[str, Callable[[], object]]:
    """Return, by form, a function that embeds the same random pictures ``[batch, 3, S, S]``."""
    import onnxruntime

    from tinyclip_edge.runtime.cpu import int8_saturates
    from tinyclip_edge.runtime.session import session_options

    pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)

    def call(form: Form) -> Callable[[], object]:
        precise = form.saturates and int8_saturates()
        options = session_options(threads=1, precise_int8=precise)
        session = onnxruntime.InferenceSession(str(form.path), options)
        return lambda: session.run(None, {"pixel_values": pixels})

    return {name: call(form) for name, form in forms.items()}


def measure(forms: dict[str, Form], size: int, rounds: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return milliseconds of each form by batch; ``rounds``: batches and numbers of calls."""
    batches = {}
    for batch, number in rounds:
        before = machine_facts()["load"]
        times = interleaved(calls(forms, batch, size), number, pause=0.0)
        batches[str(batch)] = {"ms": times, "load": [before, machine_facts()["load"]]}
    return batches


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=VIT_8M, choices=MODELS[:2])
    parser.add_argument("--rounds", type=int, default=60, help="calls with one picture")
    parser.add_argument("--large-rounds", type=int, default=10, help="calls with 16 pictures")
    parser.add_argument("--work", type=Path, default=Path("runs/int8-forms"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    forms, size = write_forms(options.model, options.work)
    results = {
        "model": options.model,
        "batches": measure(forms, size, [(1, options.rounds), (16, options.large_rounds)]),
        "machine": machine_facts(),
    }
    print_result(results, options.out)


if __name__ == "__main__":
    main()
