"""Convert a model with a peer's converter and its defaults; runs in the peer's environment.

    python peer_convert.py PEER MODEL SOURCES OUT

MODEL is a transformers folder, SOURCES a folder with image.onnx and text.onnx in fp32 and with
calibration.npz. Image and text towers in each precision of the peer are written to OUT.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Feeds: TypeAlias = dict[str, np.ndarray]  # inputs [N, ...] by tower
INPUTS = {"image": "pixel_values", "text": "input_ids"}


def transformers(model: Path, sources: Path, out: Path) -> None:
    """Convert with transformers.exporters: fp32, int8, and int8 of the graph fused for CPUs."""
    from transformers.exporters import (
        OnnxConfig,
        OnnxRuntimeDynamicConfig,
        OnnxRuntimeQuantizer,
    )
    from transformers.exporters.exporter_onnx import OnnxExporter

    for name, options in {
        "fp32": {},
        "int8": {"quantizer": OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig())},
        "fused-int8": {
            "ort_fusions": "cpu",
            "quantizer": OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig()),
        },
    }.items():
        for tower, (module, sample) in _modules(model, sources).items():
            config = OnnxConfig(dynamic=True, **options)
            exported = OnnxExporter().export(module, {INPUTS[tower]: sample}, config=config)
            exported.save_pretrained(str(out / f"{tower}-{name}"))


def optimum(model: Path, sources: Path, out: Path) -> None:
    """Convert with optimum-cli, and cut its combined file into towers."""
    import onnx.utils

    cli = [sys.executable, "-m", "optimum.commands.optimum_cli"]
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    kind = "--avx512_vnni" if "avx512_vnni" in flags or "avx_vnni" in flags else "--avx2"
    task = ["--task", "zero-shot-image-classification"]
    whole, small = out / "whole", out / "whole-int8"
    subprocess.run([*cli, "export", "onnx", "--model", str(model), *task, str(whole)], check=True)
    quantize = [*cli, "onnxruntime", "quantize", "--onnx_model", str(whole), kind, "-o", str(small)]
    subprocess.run(quantize, check=True)
    files = {"fp32": whole / "model.onnx", "int8": small / "model_quantized.onnx"}
    for name, path in files.items():
        for tower, key in INPUTS.items():
            inputs = [key] if tower == "image" else [key, "attention_mask"]
            target = out / f"{tower}-{name}.onnx"
            onnx.utils.extract_model(str(path), str(target), inputs, [f"{tower}_embeds"])


def onnxruntime(model: Path, sources: Path, out: Path) -> None:
    """Quantize the fp32 towers with the defaults of onnxruntime's quantize_dynamic."""
    from onnxruntime.quantization import quantize_dynamic

    for tower in INPUTS:
        quantize_dynamic(sources / f"{tower}.onnx", out / f"{tower}-int8.onnx")


def openvino(model: Path, sources: Path, out: Path) -> None:
    """Convert the fp32 towers to OpenVINO's form, and to int8 with NNCF on calibration inputs."""
    import nncf
    import openvino as ov

    feeds = _calibration(sources)
    for tower in INPUTS:
        converted = ov.convert_model(str(sources / f"{tower}.onnx"))
        ov.save_model(converted, str(out / f"{tower}-fp32.xml"), compress_to_fp16=False)
        rows = nncf.Dataset([row[None] for row in feeds[tower]])
        small = nncf.quantize(converted, rows, model_type=nncf.ModelType.TRANSFORMER)
        ov.save_model(small, str(out / f"{tower}-int8.xml"), compress_to_fp16=False)


def litert(model: Path, sources: Path, out: Path) -> None:
    """Convert with litert-torch for the shapes of one call: fp32 and dynamic int8."""
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    for tower, (module, sample) in _modules(model, sources).items():
        target = out / f"{tower}-fp32.tflite"
        litert_torch.convert(_Embedder(module, tower), (sample,)).export(str(target))
        small = quantizer.Quantizer(str(target), recipe.dynamic_wi8_afp32())
        small.quantize().export_model(str(out / f"{tower}-int8.tflite"), overwrite=True)


def _modules(model: Path, sources: Path) -> dict[str, tuple[Any, Any]]:
    """Return each tower of the transformers model, with one input."""
    import torch
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    kinds = {"image": CLIPVisionModelWithProjection, "text": CLIPTextModelWithProjection}
    feeds = _calibration(sources)
    return {
        tower: (kind.from_pretrained(str(model)).eval(), torch.from_numpy(feeds[tower][:1]))
        for tower, kind in kinds.items()
    }


def _Embedder(module: Any, tower: str) -> Any:  # noqa: ANN401, N802 - a class that needs torch
    import torch

    class Embedder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, value: Any) -> Any:  # noqa: ANN401
            return self.module(value)[f"{tower}_embeds"]

    return Embedder().eval()


def _calibration(sources: Path) -> Feeds:
    with np.load(sources / "calibration.npz") as arrays:
        return {tower: arrays[tower] for tower in INPUTS}


PEERS = {f.__name__: f for f in (transformers, optimum, onnxruntime, openvino, litert)}


def main() -> None:
    peer, model, sources, out = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    PEERS[peer](Path(model), Path(sources), Path(out))


if __name__ == "__main__":
    main()
