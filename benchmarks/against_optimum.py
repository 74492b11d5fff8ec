"""A bundle compared with the export of the same student by optimum-cli and its defaults.

The student is converted to Hugging Face format; `optimum-cli export onnx` writes one combined file
and `optimum-cli onnxruntime quantize` its int8 version. That file always needs both inputs, so a
query of one kind carries the smallest possible other input: two tokens, or one black image. All
variants take turns, call by call, with the same session options, pixels and token ids (texts
unpadded, which favours a combined file), one query at a time.

    python benchmarks/against_optimum.py RUN --out benchmarks/results/against-optimum.json
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from export_latency import interleaved
from machine import machine_facts
from optimum_models import command_of, steps, write_models

DATA = "starter:test_style"
QUERY = "a photo of a red bicycle"
BUNDLE, OPTIMUM, TORCH = "bundle", "optimum-cli", "torch"
SUFFIX = {"fp32": "", "int8": "_quantized"}
Encoder = Callable[[np.ndarray], np.ndarray]  # one row of pixels or ids -> embedding [1, D]


@dataclass(frozen=True)
class Variant:
    """One way to get embeddings, one query at a time."""

    name: str
    image: Encoder  # float32 [1, 3, S, S]
    text: Encoder  # int64 [1, L]
    bytes: int  # of the files that both kinds of query need


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run or a folder of a student with equal layers")
    parser.add_argument("--work", type=Path, default=Path("runs/against-optimum"))
    parser.add_argument("--all-threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--limit", type=int, help="pairs of the comparison with PyTorch")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    write_models(options.run, options.work)
    results = {
        "machine": machine_facts(),
        "student": options.run.name,
        "made_by": [command_of(step) for step in steps(options.run, options.work)],
        "latency": [latency(options, threads) for threads in options.all_threads],
        "bytes": {v.name: v.bytes for v in variants(options.work, threads=1)},
        "nearness": nearness(options),
    }
    results["asked"] = comparisons(results)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print_tables(results)


def variants(work: Path, threads: int) -> list[Variant]:
    """Open both kinds of files in fp32 and int8."""
    models = []
    for precision, suffix in SUFFIX.items():
        towers = [work / "bundle" / "onnx" / f"{t}_model{suffix}.onnx" for t in ("vision", "text")]
        image, text = (session(path, threads) for path in towers)
        models.append(
            Variant(
                f"{BUNDLE} {precision}",
                partial(embed, image, "image_embeds", "pixel_values"),
                partial(embed, text, "text_embeds", "input_ids"),
                sum(path.stat().st_size for path in towers),
            )
        )
        folder = work / ("optimum-int8" if precision == "int8" else "optimum")
        models.append(combined(folder / f"model{suffix}.onnx", f"{OPTIMUM} {precision}", threads))
    return models


def embed(model: Any, output: str, key: str, row: np.ndarray) -> np.ndarray:  # noqa: ANN401
    """Return a row's embedding ``[1, D]``."""
    embedding: np.ndarray = model.run([output], {key: row})[0]
    return embedding


def combined(path: Path, name: str, threads: int) -> Variant:
    """Open a combined file, which needs both inputs for every query."""
    run = session(path, threads)
    size = next(value.shape[-1] for value in run.get_inputs() if value.name == "pixel_values")
    size = (
        size
        if isinstance(size, int)
        else json.loads((path.parent / "preprocessor_config.json").read_text())["crop_size"][
            "height"
        ]
    )
    black = np.zeros((1, 3, size, size), np.float32)
    special = json.loads((path.parent / "config.json").read_text())["text_config"]
    shortest = np.array([[special["bos_token_id"], special["eos_token_id"]]], np.int64)

    def embed_both(output: str, pixels: np.ndarray, ids: np.ndarray) -> np.ndarray:
        feed = {"pixel_values": pixels, "input_ids": ids, "attention_mask": np.ones_like(ids)}
        embedding: np.ndarray = run.run([output], feed)[0]
        return embedding

    return Variant(
        name,
        lambda pixels: embed_both("image_embeds", pixels, shortest),
        lambda ids: embed_both("text_embeds", black, ids),
        path.stat().st_size,
    )


def session(path: Path, threads: int) -> Any:  # noqa: ANN401
    """Open a file as the runtime of a bundle does."""
    import onnxruntime

    from tinyclip_edge.runtime.session import session_options

    return onnxruntime.InferenceSession(str(path), session_options(threads=threads))


def torch_variant(run: Path) -> tuple[Variant, Any]:
    """Return PyTorch as the reference, texts padded as open_clip pads them, and its model."""
    import torch

    from tinyclip_edge.models import load_clip

    clip = load_clip(str(run))
    model: Any = clip.model

    def image(pixels: np.ndarray) -> np.ndarray:
        embedding: np.ndarray = model.encode_image(torch.from_numpy(pixels), normalize=True).numpy()
        return embedding

    def text(ids: np.ndarray) -> np.ndarray:
        padded = torch.zeros(len(ids), clip.context_length, dtype=torch.int64)
        padded[:, : ids.shape[1]] = torch.from_numpy(ids)
        embedding: np.ndarray = model.encode_text(padded, normalize=True).numpy()
        return embedding

    return Variant(TORCH, image, text, 0), clip


def latency(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Time one image and one text query of each variant, in turns; milliseconds."""
    import torch

    torch.set_num_threads(threads)
    reference, clip = torch_variant(options.run)
    pixels = np.random.default_rng(0).standard_normal((1, 3, clip.image_size, clip.image_size))
    ids = unpadded(clip.tokenizer([QUERY])[0].numpy())
    timings: dict[str, Any] = {"threads": threads, "tokens": ids.shape[1], "load": [load()]}
    every = [reference, *variants(options.work, threads)]
    with torch.inference_mode():
        for kind, row in (("image", pixels.astype(np.float32)), ("text", ids)):
            calls = {v.name: _call(getattr(v, kind), row) for v in every}
            timings[kind] = interleaved(calls, options.rounds, 0.005 if threads > 1 else 0.0)
    timings["load"].append(load())
    return timings


def _call(encode: Encoder, row: np.ndarray) -> Callable[[], object]:
    return lambda: encode(row)


def load() -> float:
    return round(os.getloadavg()[0], 2)


def unpadded(ids: np.ndarray) -> np.ndarray:
    """Cut a row ``[L]`` after its end of text, the highest id of CLIP's tokenizer; ``[1, l]``."""
    row: np.ndarray = ids[None, : int(ids.argmax()) + 1].astype(np.int64)
    return row


def nearness(options: argparse.Namespace) -> dict[str, Any]:
    """Compare embeddings and rankings of all pairs with PyTorch's."""
    import torch

    from tinyclip_edge.data import decode_image
    from tinyclip_edge.evaluation import evaluation_set

    reference, clip = torch_variant(options.run)
    pairs = evaluation_set(DATA, limit=options.limit)
    pixels = [
        clip.preprocess(decode_image(cast("Any", image)))[None].numpy() for image in pairs.images
    ]
    ids = [unpadded(row) for row in clip.tokenizer(list(pairs.texts)).numpy()]
    every = [reference, *variants(options.work, threads=1)]
    with torch.inference_mode():
        embedded = {v.name: (_rows(v.image, pixels), _rows(v.text, ids)) for v in every}
    image, text = embedded[TORCH]
    return {
        "pairs": len(pairs),
        "data": DATA,
        **{name: compared((image, text), both) for name, both in embedded.items()},
    }


def _rows(encode: Encoder, inputs: Sequence[np.ndarray]) -> np.ndarray:
    rows = np.concatenate([encode(row) for row in inputs])
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def compared(
    reference: tuple[np.ndarray, np.ndarray], both: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """Compare image and text embeddings ``[N, D]`` of pairs with the reference's."""
    from tinyclip_edge.evaluation import retrieval_of_features

    expected, scores = reference[0] @ reference[1].T, both[0] @ both[1].T
    recall = retrieval_of_features(*both)
    cosines = [(a * b).sum(axis=1) for a, b in zip(reference, both, strict=True)]
    return {
        "image_cosine_mean": float(cosines[0].mean()),
        "image_cosine_min": float(cosines[0].min()),
        "text_cosine_mean": float(cosines[1].mean()),
        "text_cosine_min": float(cosines[1].min()),
        "same_image_first": float((expected.argmax(0) == scores.argmax(0)).mean()),
        "same_text_first": float((expected.argmax(1) == scores.argmax(1)).mean()),
        "t2i_r1": recall.t2i[1],
        "i2t_r1": recall.i2t[1],
        "r1_stderr": recall.t2i_stderr[1],
    }


def comparisons(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare speed, size and accuracy of a bundle's int8 with those of optimum-cli's."""
    bundle, optimum = f"{BUNDLE} int8", f"{OPTIMUM} int8"
    lines = []
    for row in results["latency"]:
        for kind in ("image", "text"):
            ratio = {
                k: row[kind][optimum][k] / row[kind][bundle][k] for k in ("median", "min", "cpu")
            }
            lines.append({"what": f"{kind} query, {row['threads']} threads: times faster", **ratio})
    size = results["bytes"][optimum] / results["bytes"][bundle]
    lines.append({"what": "times smaller", "median": size})
    near = results["nearness"]
    for key in ("image_cosine_mean", "text_cosine_mean", "same_image_first", "same_text_first"):
        lines.append({"what": key, "ours": near[bundle][key], "theirs": near[optimum][key]})
    for key in ("t2i_r1", "i2t_r1"):
        gap = {name: 100 * (near[name][key] - near[TORCH][key]) for name in (bundle, optimum)}
        lines.append({"what": f"{key} lost or won, points", **gap})
    return lines


def print_tables(results: dict[str, Any]) -> None:
    print(json.dumps(results["machine"]))
    for row in results["latency"]:
        print(f"\n{row['threads']} threads, load {row['load'][0]} to {row['load'][1]}; ms")
        print(f"  {'':18} image: median, min, cpu      text of {row['tokens']} tokens")
        for name, size in ({TORCH: 0} | results["bytes"]).items():
            figures = [
                "  ".join(f"{row[kind][name][key]:6.2f}" for key in ("median", "min", "cpu"))
                for kind in ("image", "text")
            ]
            print(f"  {name:18} {figures[0]}     {figures[1]}     {size / 1e6:6.2f} MB")
    print(f"\nagainst PyTorch, {results['nearness']['pairs']} pairs of {DATA}")
    for name in results["bytes"]:
        near = results["nearness"][name]
        print(f"  {name:18} " + "  ".join(f"{key} {value:.4f}" for key, value in near.items()))
    print()
    for line in results["asked"]:
        label, *values = line.items()
        print(f"  {label[1]:42} " + "  ".join(f"{key} {value:.4f}" for key, value in values))


if __name__ == "__main__":
    main()
