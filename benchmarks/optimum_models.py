"""A student as a bundle, in Hugging Face form, and as optimum-cli makes it by its defaults."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from kept_runs import check_settings
from machine import machine_facts

TASK = "zero-shot-image-classification"


def steps(run: Path, work: Path) -> list[tuple[Path, list[str]]]:
    """Return each folder that a comparison needs with the command that writes it."""
    here = Path(sys.executable).parent
    tinyclip, optimum = str(here / "tinyclip-edge"), str(here / "optimum-cli")
    folders = {name: work / name for name in ("hf", "bundle", "optimum", "optimum-int8")}
    export = [tinyclip, "export", str(run), "--out", str(folders["bundle"]), "--int8"]
    convert = [
        tinyclip,
        "convert",
        str(run),
        "--out",
        str(folders["hf"]),
        "--format",
        "huggingface",
    ]
    onnx = [optimum, "export", "onnx", "--model", str(folders["hf"]), "--task", TASK]
    int8 = [optimum, "onnxruntime", "quantize", "--onnx_model", str(folders["optimum"])]
    return [
        (folders["bundle"], export),
        (folders["hf"], convert),
        (folders["optimum"], [*onnx, str(folders["optimum"])]),
        (folders["optimum-int8"], [*int8, instruction_set(), "-o", str(folders["optimum-int8"])]),
    ]


def instruction_set() -> str:
    """Return the switch that optimum's documentation advises for this processor."""
    flags = machine_facts()["flags"]
    return "--avx512_vnni" if {"avx512_vnni", "avx_vnni"} & {*flags} else "--avx2"


def command_of(step: tuple[Path, list[str]]) -> str:
    """Return the command of a step with short paths."""
    return " ".join(Path(word).name if "/" in word else word for word in step[1])


def write_models(run: Path, work: Path) -> None:
    """Run the commands whose folders are missing, each in its own process.

    Exits when `work` contains another student.
    """
    digest = hashlib.sha256()
    for path in sorted(run.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    check_settings(work, {"student": digest.hexdigest()})
    for folder, command in steps(run, work):
        if folder.exists():
            continue
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        process = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr[-2000:]}")
