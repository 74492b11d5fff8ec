"""A model in every contender's form: our bundles, and each peer's conversion with its defaults."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kept_runs import check_settings

HERE = Path(__file__).parent
# Peers with their own environment, because their packages conflict with ours.
PACKAGES = {
    "openvino": ("openvino", "nncf", "onnx", "numpy"),
    "litert": ("litert-torch", "ai-edge-litert", "ai-edge-quantizer", "transformers", "numpy"),
    "optimum": ("optimum-onnx[onnxruntime]", "onnxruntime"),
}
PEERS = ("transformers", "optimum", "onnxruntime", "openvino", "litert")
OURS = {"fp32": "", "int8": "_quantized", "q4": "_q4", "w8": "_w8"}
TOKENS = 8  # in every text, start and end included: LiteRT's shapes are fixed
CALIBRATION = 32


@dataclass(frozen=True)
class Contender:
    """One way to compute embeddings: files, the runtime that opens them, and its environment."""

    name: str
    runtime: str  # a key of peer_worker.RUNTIMES
    python: Path
    image: str
    text: str
    bytes: int


@dataclass(frozen=True)
class Inputs:
    """Pictures and texts that every contender embeds."""

    pixels: np.ndarray  # float32 [N, 3, S, S]
    ids: np.ndarray  # int64 [M, TOKENS]


def python_of(environments: Path, peer: str) -> Path:
    """Return the Python of a peer's environment; create the environment if it is missing."""
    if peer not in PACKAGES:
        return Path(sys.executable)
    python = environments / peer / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environments / peer)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[peer]]
        subprocess.run(install, check=True)
    return python


def write_sources(model: str, work: Path, count: int) -> Inputs:
    """Write a model in both forms, its fp32 towers and calibration inputs; return test inputs.

    `model` is a run, a folder, or a name, which means random weights. Exits if `work` contains
    another model.
    """
    import torch

    from tinyclip_edge.models import load_clip, weights_hash
    from tinyclip_edge.models.huggingface import save_huggingface

    torch.manual_seed(0)
    clip = load_clip(model, allow_random=True)
    check_settings(work, {"weights": weights_hash(clip.model)})
    folder, sources = work / "hf", work / "sources"
    if not folder.exists():
        save_huggingface(folder, clip)
    _export(folder, work / "bundle", "--target", "auto", "--precision", "q4", "--precision", "w8")
    _export(folder, work / "bundle-any", "--int8")
    sources.mkdir(exist_ok=True)
    for tower, stem in (("image", "vision"), ("text", "text")):
        shutil.copyfile(work / "bundle" / "onnx" / f"{stem}_model.onnx", sources / f"{tower}.onnx")
    calibration = _inputs(clip, "starter:val", CALIBRATION)
    np.savez(sources / "calibration.npz", image=calibration.pixels, text=calibration.ids)
    return _inputs(clip, "starter:test_style", count)


def _export(model: Path, out: Path, *options: str) -> None:
    if not out.exists():
        loose = ("--max-drop", "100", "--no-search", "--limit", "32")  # accuracy is measured here
        command = [sys.executable, "-m", "tinyclip_edge", "export", str(model), "--out", str(out)]
        _run([*command, *options, *loose])


def _inputs(clip: Any, data: str, count: int) -> Inputs:  # noqa: ANN401
    """Return pictures of a set, and the captions that have TOKENS tokens."""
    from tinyclip_edge.data import decode_image
    from tinyclip_edge.evaluation import evaluation_set

    pairs = evaluation_set(data)
    images: Any = pairs.images[:count]
    pixels = np.stack([clip.preprocess(decode_image(image)).numpy() for image in images])
    rows = clip.tokenizer(list(dict.fromkeys(pairs.texts))).numpy()
    fitting = rows[rows.argmax(axis=1) == TOKENS - 1][:count, :TOKENS]
    return Inputs(pixels.astype(np.float32), np.ascontiguousarray(fitting, dtype=np.int64))


def contenders(work: Path, environments: Path) -> tuple[list[Contender], dict[str, str]]:
    """Write missing files; return all contenders, and why others are left out."""
    here = Path(sys.executable)
    made = [
        _ours(f"ours {precision}", work / "bundle", suffix) for precision, suffix in OURS.items()
    ]
    made.append(_ours("ours int8, no target", work / "bundle-any", OURS["int8"]))
    image, text = (f"{work / 'hf'}#{tower}" for tower in ("image", "text"))
    size = (work / "hf" / "model.safetensors").stat().st_size
    made += [
        Contender(name, runtime, here, image, text, size)
        for name, runtime in (("torch eager", "torch"), ("torch.compile", "compiled"))
    ]
    missing = {}
    for peer in PEERS:
        try:
            made += _peer(peer, work, python_of(environments, peer))
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or str(error)).strip().splitlines()
            missing[peer] = lines[-1][:300] if lines else str(error)
    return made, missing


def _ours(name: str, bundle: Path, suffix: str) -> Contender:
    files = [bundle / "onnx" / f"{stem}_model{suffix}.onnx" for stem in ("vision", "text")]
    size = sum(path.stat().st_size for path in files)
    return Contender(name, "onnx", Path(sys.executable), str(files[0]), str(files[1]), size)


def _peer(peer: str, work: Path, python: Path) -> list[Contender]:
    """Return a peer's contenders, one per precision; its converter runs once."""
    out = work / peer
    if not out.exists():
        aside = out.with_name(f"{peer}-part")
        shutil.rmtree(aside, ignore_errors=True)
        command = [str(python), str(HERE / "peer_convert.py"), peer]
        _run([*command, str(work / "hf"), str(work / "sources"), str(aside)])
        aside.rename(out)
    found = []
    runtime = peer if peer in ("openvino", "litert") else "onnx"
    for image in sorted(out.glob("image-*")):
        text = image.with_name(image.name.replace("image-", "text-", 1))
        if image.suffix == ".bin":  # belongs to OpenVINO's .xml
            continue
        precision = image.stem.removeprefix("image-").replace("fused-int8", "int8, fused")
        files = [part / "model.onnx" if part.is_dir() else part for part in (image, text)]
        size = sum(_size(part) for part in (image, text))
        found.append(
            Contender(f"{peer} {precision}", runtime, python, str(files[0]), str(files[1]), size)
        )
    return found


def _size(path: Path) -> int:
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else path
    paths = path.rglob("*.onnx*") if path.is_dir() else {path, beside}
    return sum(part.stat().st_size for part in paths)


def _run(command: list[str]) -> None:
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, env=offline, capture_output=True, text=True, check=True)
