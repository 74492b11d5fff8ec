"""A distilled model measured twice: by `tinyclip-edge eval` and by LAION's clip-benchmark.

Both get the same encoded images, texts and prompts, in float32, and use their own decoding,
preprocessing, tokenizing and ranking. clip-benchmark needs numpy below 2.4 and runs in a separate
environment, which is created if missing.

    python benchmarks/cross_check.py RUN --images TAR --out benchmarks/results/cross-check.json

TAR (or a folder) holds images in one folder per class; RUN is a run, an open_clip folder, or
starter-teacher. cross_check_sets.py writes sets in Tiny-ImageNet's layouts and with five captions.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from machine import machine_facts
from written import write_result

if TYPE_CHECKING:
    from tinyclip_edge.evaluation import EvalSet
    from tinyclip_edge.runtime.protocol import Embedder, ImageInput

AGREE = 0.1  # points
CONFIG = "open_clip_config.json"
STARTER_TEACHER = "starter-teacher"
PACKAGES = (
    "clip-benchmark==1.6.2",
    "numpy<2.4",
    "requests",
)  # imported but not declared by it
# Our figures and the names of theirs; text-to-image is their image retrieval.
ZERO_SHOT = {"top1": "acc1", "top5": "acc5"}
RETRIEVAL = {
    f"{direction}@{k}": f"{modality}_retrieval_recall@{k}"
    for k in (1, 5)
    for direction, modality in (("t2i", "image"), ("i2t", "text"))
}
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # what clip-benchmark decodes


def write_classes(classes: EvalSet, templates: list[str], folder: Path) -> None:
    """Write a zero-shot set in clip-benchmark's format; templates have ``{}`` for the class."""
    samples = (
        (image, "cls", str(t)) for image, t in zip(classes.images, classes.targets, strict=True)
    )
    _write_shard(samples, folder)
    (folder / "classnames.txt").write_text("\n".join(classes.classnames), encoding="utf-8")
    prompts = [template.replace("{}", "{c}") for template in templates]
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(prompts), "utf-8")


def write_pairs(pairs: EvalSet, folder: Path) -> None:
    """Write images with all their captions in clip-benchmark's format for retrieval."""
    captions = pairs.captions or [(text,) for text in pairs.texts]
    if any(len(text.splitlines()) != 1 for texts in captions for text in texts):
        raise SystemExit(f"{pairs.name}: clip-benchmark needs every caption to be exactly one line")
    samples = zip(pairs.images, captions, strict=True)
    _write_shard(((image, "txt", "\n".join(texts)) for image, texts in samples), folder)
    (folder / "dataset_type.txt").write_text("retrieval")


def _write_shard(samples: Iterator[tuple[ImageInput, str, str]], folder: Path) -> None:
    (folder / "test").mkdir(parents=True, exist_ok=True)
    (folder / "test" / "nshards.txt").write_text("1")
    with tarfile.open(folder / "test" / "0.tar", "w") as shard:
        for number, (image, ending, about) in enumerate(samples):
            data = image.read_bytes() if isinstance(image, Path) else image
            assert isinstance(data, bytes)
            for suffix, content in ((_ending(data), data), (ending, about.encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def _ending(data: bytes) -> str:
    from PIL import Image

    kind = Image.open(io.BytesIO(data)).format or "unknown"
    if kind not in _ENDINGS:
        raise SystemExit(f"clip-benchmark decodes {', '.join(_ENDINGS)}, not {kind}")
    return _ENDINGS[kind]


def environment(folder: Path) -> Path:
    """Return the Python of an environment with clip-benchmark; create it if missing."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "clip_benchmark").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES]
        subprocess.run(pip, check=True)
    return python


def clip_benchmark_figures(
    python: Path, model: Path, data: Path, task: str, threads: int
) -> dict[str, float]:
    """Return clip-benchmark's figures for an open_clip folder, as shares."""
    result_file = data / "answer.json"
    command = [
        *(str(python), "-m", "clip_benchmark.cli", "eval", "--model", f"local-dir:{model}"),
        *("--pretrained", "", "--dataset", f"wds/{data.name}", "--dataset_root", str(data)),
        *("--task", task, "--recall_k", "1", "5", "--num_workers", "0", "--no_amp"),
        *("--output", str(result_file)),
    ]
    variables = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    if process.returncode or not result_file.exists():
        raise SystemExit(f"clip-benchmark failed on {data}:\n{process.stderr[-2000:]}")
    metrics: dict[str, float] = json.loads(result_file.read_text())["metrics"]
    return metrics


def tinyclip_figures(
    embedder: Embedder, task: str, data: str, templates: list[str], limit: int | None
) -> dict[str, float]:
    """Return our figures, as shares."""
    from tinyclip_edge.evaluation import evaluate_model

    report = evaluate_model(
        embedder, task=task, data=data, templates=templates, limit=limit, companions=False
    )
    row = report.rows[0]
    if row.zero_shot:
        return {"top1": row.zero_shot.top1, "top5": row.zero_shot.top5}
    assert row.retrieval is not None
    sides = {"t2i": row.retrieval.t2i, "i2t": row.retrieval.i2t}
    return {f"{side}@{k}": shares[k] for side, shares in sides.items() for k in (1, 5)}


def compare(
    tinyclip: dict[str, float], clip_benchmark: dict[str, float], names: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the figures of both side by side, in percent."""
    rows = []
    for name, their_name in names.items():
        figures = {"ours": 100 * tinyclip[name], "theirs": 100 * clip_benchmark[their_name]}
        gap = abs(figures["ours"] - figures["theirs"])
        rows.append({"figure": name, **figures, "gap": gap, "agrees": gap <= AGREE})
    return rows


def tied(embedder: Embedder, pairs: EvalSet) -> dict[str, int]:
    """Count the queries whose best correct hit ties with a wrong one; figures may differ there.

    Such a hit counts fractionally here; clip-benchmark uses the order of torch.topk.
    """
    from tinyclip_edge.evaluation.ranking import TIE

    texts, owners = pairs.queries()
    scores = embedder.encode_image(pairs.images) @ embedder.encode_text(texts).T
    right = np.arange(len(scores))[:, None] == np.array(owners)  # [images, captions]
    counts = {}
    for name, axis in (("t2i", 0), ("i2t", 1)):
        best = np.where(right, scores, -np.inf).max(axis=axis, keepdims=True)
        ties = (np.abs(scores - best) <= TIE) & ~right
        counts[name] = int(ties.any(axis=axis).sum())
    return counts


def model_folder(path: Path) -> Path:
    """Return the open_clip folder of a run or of the starter teacher, or the folder itself."""
    if str(path) == STARTER_TEACHER:
        from tinyclip_edge.starter import teacher_path

        path = Path(teacher_path())
    for folder in (path / "student", path):
        if (folder / CONFIG).is_file():
            return folder.resolve()
    raise SystemExit(f"{path} has no {CONFIG}; pass a run or an open_clip folder")


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Measure with both tools and compare."""
    import torch

    from tinyclip_edge.evaluation import evaluation_set, open_embedder

    torch.set_num_threads(options.threads)
    model, python = model_folder(options.model), environment(options.venv)
    embedder = open_embedder(str(model))
    images = evaluation_set(str(options.images), limit=options.limit)
    write_classes(images, options.template, options.work / "classes")
    pairs = evaluation_set(options.pairs, limit=options.limit)
    write_pairs(pairs, options.work / "pairs")
    tasks = (
        ("zero-shot", str(options.images), "classes", "zeroshot_classification", ZERO_SHOT),
        ("retrieval", options.pairs, "pairs", "zeroshot_retrieval", RETRIEVAL),
    )
    rows = []
    for task, data, place, their_task, names in tasks:
        templates = options.template if task == "zero-shot" else ["{}"]
        tinyclip = tinyclip_figures(embedder, task, data, templates, options.limit)
        folder = (options.work / place).resolve()
        clip_benchmark = clip_benchmark_figures(python, model, folder, their_task, options.threads)
        rows += [{"task": task, **row} for row in compare(tinyclip, clip_benchmark, names)]
    return {
        "machine": machine_facts(),
        "model": embedder.name,
        "images": {"file": options.images.name, "n": len(images), "templates": options.template},
        "pairs": {
            "name": Path(options.pairs).name,
            "n": len(pairs),
            "captions": len(pairs.queries()[0]),
            "tied": tied(embedder, pairs),
        },
        "their_versions": _versions(python),
        "asked": AGREE,
        "agrees": all(row["agrees"] for row in rows),
        "rows": rows,
    }


def _versions(python: Path) -> dict[str, str]:
    names = ["clip-benchmark", "open_clip_torch", "torch", "transformers", "numpy"]
    code = f"import importlib.metadata as m; print(*map(m.version, {names}))"
    process = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(names, process.stdout.split(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--pairs", default="starter:test_style")
    parser.add_argument("--template", action="append", help="{} for the class; repeatable")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--venv", type=Path, default=Path("runs/clip-benchmark/venv"))
    parser.add_argument("--work", type=Path, default=Path("runs/clip-benchmark"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.template = options.template or ["a photo of a {}."]
    results = check(options)
    write_result(results, options.out)
    for row in results["rows"]:
        figures = f"ours {row['ours']:7.3f}  theirs {row['theirs']:7.3f}  gap {row['gap']:.3f}"
        print(f"{row['task']:10} {row['figure']:6} {figures}")
    print(f"correct hits that tie: {results['pairs']['tied']}; allowed gap: {AGREE} points")
    if not results["agrees"]:
        raise SystemExit(f"a figure differs by more than {AGREE} points")


if __name__ == "__main__":
    main()
